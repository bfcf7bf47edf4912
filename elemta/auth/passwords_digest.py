"""Plain digests, salted or not, as LDAP directories kept them.

What is not here: making such hashes. RFC 2307 §5.3 for {SHA}; {SSHA} is OpenLDAP's, {SSHA256} or {SSHA512} Dovecot's.
Failures raised: `UnknownForm`.

A graphics card tries thousands of millions of them a second. They are checked so that the users can move: the first
login gives each a hash worth the name.
"""

import base64
import binascii
import hashlib
import hmac

from elemta.auth.passwords_form import Form, UnknownForm

#: Scheme → digest. Behind the digest stands the salt, where the scheme has one.
UNSALTED = {"SHA": "sha1", "SHA1": "sha1", "SHA256": "sha256", "SHA512": "sha512"}
SALTED = {"SSHA": "sha1", "SSHA256": "sha256", "SSHA512": "sha512"}
#: Of any length in OpenLDAP; 4 and 8 octets are what programs write.
MAX_SALT_OCTETS = 64


def read(scheme: str, stored: str) -> Form:
    """The base64 behind a scheme of `UNSALTED` or `SALTED`. Raises `UnknownForm`."""
    digest = UNSALTED.get(scheme) or SALTED[scheme]
    try:
        octets = base64.b64decode(stored, validate=True)
    except binascii.Error:
        raise UnknownForm("base64 that cannot be decoded") from None
    size = hashlib.new(digest).digest_size
    expected, salt = octets[:size], octets[size:]
    # A salted scheme without its salt would be an unsalted one; accepting it costs nobody anything but is not the form.
    if len(expected) < size or len(salt) > MAX_SALT_OCTETS or (scheme in SALTED) != bool(salt):
        raise UnknownForm("a digest of another length than its scheme's")
    return Form(lambda password: hmac.compare_digest(hashlib.new(digest, password + salt).digest(), expected))
