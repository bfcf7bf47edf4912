"""Looks for what does not belong in the folders of a queue, or cannot be read.

What is not here: the content of mails, which is compared with its digest where it is read. Nothing is changed.
"""

import os
import stat
from collections.abc import Iterable

from elemta.mail.ids import is_queue_id
from elemta.storage.base import Finding
from elemta.storage.file_attempts import History, hour_of
from elemta.storage.file_content import content_id_of
from elemta.storage.file_folders import STATE_OF, Folder, Folders, OddFile, Place, path_of
from elemta.storage.file_index import Index
from elemta.storage.file_journal import is_journal
from elemta.storage.file_nodes import NODES, Nodes
from elemta.storage.file_state import Damaged, decode_state, id_of

_STRANGE = "it is none of the queue's: move it away"
_OPEN_TO_OTHERS = "others than its owner may use it: `chmod go-rwx` it"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Inspector:
    """Looks at one place after another, while the queue changes: what is gone meanwhile is no finding."""

    def __init__(self, folders: Folders, index: Index) -> None:
        self._folders = folders
        self._index = index

    def places(self) -> list[Place]:
        """Every name in every folder, in order."""
        return [
            (folder, name)
            for folder in Folder
            if folder is not Folder.ROOT
            for name in sorted(self._folders.names(folder))
        ]

    def look_at_folders(self) -> list[Finding]:
        """The folders themselves, and what lies beside them. Raises `OSError`."""
        modes = {folder: os.fstat(self._folders.descriptor(folder)).st_mode for folder in Folder}
        found = [Finding(folder.value, _OPEN_TO_OTHERS) for folder, mode in modes.items() if mode & _OTHERS]
        try:
            Nodes.decode(self._folders.read(NODES))
        except FileNotFoundError:
            pass
        except (OddFile, ValueError) as error:
            found.append(Finding(path_of(NODES), f"{error}: the next start writes it anew"))
        for name, lines in History(self._folders).damaged():
            found.append(Finding(path_of((Folder.ATTEMPTS, name)), f"{lines} of its lines cannot be read"))
        return found

    def look(self, places: Iterable[Place], staged: Iterable[str]) -> list[Finding]:
        """What is odd among these. Raises `OSError`."""
        waiting = frozenset(staged)
        found = []
        for place in places:
            try:
                said = self._oddity(place, waiting)
            except FileNotFoundError:
                continue
            except (OddFile, Damaged) as error:
                said = f"{error}: move it away, or put a whole one in its place"
            if said:
                found.append(Finding(path_of(place), said))
        return found

    def _oddity(self, place: Place, staged: frozenset[str]) -> str:
        folder, name = place
        if not self._is_ours(place):
            return _STRANGE
        with self._folders.reading(place) as (descriptor, _):
            if os.fstat(descriptor).st_mode & _OTHERS:
                return _OPEN_TO_OTHERS
        if folder in STATE_OF:
            return self._oddity_of_state(place)
        if folder is Folder.DATA:
            content_id = content_id_of(name)
            if content_id not in self._index.references and content_id not in staged:
                return "no mail refers to it: a cleanup removes it when it is a day old"
        if folder is Folder.SHARED:
            content_id, _, queue_id = name.partition(".")
            entry = self._index.entries.get(queue_id)
            if entry is None or entry.content != content_id:
                return "no such mail has this content: remove it while no server runs"
        return ""

    def _is_ours(self, place: Place) -> bool:
        folder, name = place
        if folder in STATE_OF:
            return id_of(name) is not None
        if folder is Folder.SHARED:
            content_id, _, queue_id = name.partition(".")
            return is_queue_id(content_id) and is_queue_id(queue_id)
        if folder is Folder.DATA:
            return content_id_of(name) is not None
        if folder is Folder.ATTEMPTS:
            return hour_of(name) is not None
        return is_journal(name) if folder is Folder.JOURNAL else True

    def _oddity_of_state(self, place: Place) -> str:
        folder, name = place
        queue_id = id_of(name) or ""
        decode_state(self._folders.read(place), queue_id, STATE_OF[folder])
        entry = self._index.entries.get(queue_id)
        if entry is None:
            return "it was put here while the server runs: the next start finds it"
        if entry.state is not STATE_OF[folder]:
            return f"the mail is {entry.state.value}: this state of it does not count"
        return ""
