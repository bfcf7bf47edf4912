"""What lies in the folders when the store opens.

What is not here: what changes while it is open (`file_queue`), or what else a person should know of (`file_check`).

A listing tells the id, the state and the next attempt of a mail: its file's name, its folder, its mtime. Only what is
ACTIVE is read, since some of it may have been in flight; the rest is read when it is due or asked for. A mail with
content of another's id has a mark in `shared/`, `<content id>.<mail id>`, so that the listing tells as well which
content is still needed. Where a mail has two states, the one with the greater generation counts, and the other is
removed.
"""

from contextlib import suppress

from attrs import define, field

from elemta.mail.ids import is_queue_id
from elemta.storage.file_content import content_id_of
from elemta.storage.file_folders import STATE_OF, Folder, Folders, OddFile, Place
from elemta.storage.file_index import Entry, Index
from elemta.storage.file_nodes import NODES, Nodes
from elemta.storage.file_state import Damaged, State, decode_state, id_of, state_name

#: Which files are read though nobody asks: all when the journal is gone, since nobody knows the last generation then.
_ALWAYS_READ = frozenset({Folder.ACTIVE})


@define
class Survey:
    """What was found. `generation` and `token` are the greatest that were read."""

    index: Index = field(factory=Index)
    nodes: Nodes = field(factory=Nodes)
    #: Content that no mail refers to.
    orphans: set[str] = field(factory=set)
    generation: int = 0
    token: int = 0


def shared_place(content_id: str, queue_id: str) -> Place:
    """The mark of a mail whose content has another id."""
    return Folder.SHARED, f"{content_id}.{queue_id}"


def survey(folders: Folders, *, read_all: bool) -> Survey:
    """Look through all folders. Raises `OSError`."""
    return _Surveyor(folders, read_all).run()


def read_state(folders: Folders, place: Place, queue_id: str) -> State:
    """A mail's state, as its folder says. Raises `OSError`, `OddFile`, `Damaged`."""
    return decode_state(folders.read(place), queue_id, STATE_OF[place[0]])


class _Surveyor:
    def __init__(self, folders: Folders, read_all: bool) -> None:
        self._folders = folders
        self._read_folders = frozenset(STATE_OF) if read_all else _ALWAYS_READ
        self._found = Survey()
        self._seen: dict[str, Folder] = {}

    def run(self) -> Survey:
        content_of = self._shared()
        for folder in STATE_OF:
            self._look_into(folder, content_of)
        self._look_at_contents()
        self._found.nodes = self._nodes()
        return self._found

    def _shared(self) -> dict[str, str]:
        """The content of the mails that have a mark."""
        pairs = (name.partition(".") for name in self._folders.names(Folder.SHARED))
        return {mail: content for content, _, mail in pairs if is_queue_id(mail) and is_queue_id(content)}

    def _look_into(self, folder: Folder, content_of: dict[str, str]) -> None:
        index = self._found.index
        # In order, so that whoever lists the mails later finds them nearly sorted.
        for name, moment, is_plain in sorted(self._folders.entries(folder)):
            queue_id = id_of(name)
            if queue_id is None or not is_plain:
                continue
            if queue_id in self._seen:
                self._decide(queue_id, self._seen[queue_id], folder)
            else:
                self._seen[queue_id] = folder
                entry = Entry(STATE_OF[folder], moment, content_of.get(queue_id, queue_id))
                index.add_unread(queue_id, entry)
                if folder in self._read_folders:
                    self._read(queue_id, folder)

    def _read(self, queue_id: str, folder: Folder) -> State | None:
        state = self._state(queue_id, folder)
        if state is None:
            self._found.index.lose(queue_id)
            return None
        self._found.index.put(state.mail)
        return state

    def _state(self, queue_id: str, folder: Folder) -> State | None:
        try:
            state = read_state(self._folders, (folder, state_name(queue_id)), queue_id)
        except (FileNotFoundError, OddFile, Damaged):
            return None
        self._found.generation = max(self._found.generation, state.generation)
        self._found.token = max(self._found.token, state.token)
        return state

    def _decide(self, queue_id: str, one: Folder, other: Folder) -> None:
        """Of two states keep the newer. A crash cannot leave two whose journal is whole; a person's copy can."""
        states = {folder: self._state(queue_id, folder) for folder in (one, other)}
        generations = {folder: -1 if state is None else state.generation for folder, state in states.items()}
        newer, older = (one, other) if generations[one] >= generations[other] else (other, one)
        kept = states[newer]
        if kept is None:
            return
        self._seen[queue_id] = newer
        self._found.index.put(kept.mail)
        if states[older] is not None:
            self._folders.unlink((older, state_name(queue_id)))

    def _look_at_contents(self) -> None:
        names = self._folders.names(Folder.DATA)
        there = {content_id for name in names if (content_id := content_id_of(name)) is not None}
        index = self._found.index
        for queue_id, entry in list(index.entries.items()):
            # A mark is missing, perhaps after a restored copy: ask the mail before its content passes for nobody's.
            if entry.priority is None and entry.content not in there:
                self._read(queue_id, self._seen[queue_id])
        self._found.orphans = there.difference(index.references)

    def _nodes(self) -> Nodes:
        nodes = Nodes()
        with suppress(FileNotFoundError, OddFile, ValueError):
            nodes = Nodes.decode(self._folders.read(NODES))
        return nodes if nodes.last >= self._found.token else Nodes(nodes.tokens, self._found.token)
