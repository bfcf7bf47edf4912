"""Clock, thread hops, ids: what every live room gets handed instead of reaching for it."""
