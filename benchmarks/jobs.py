"""What is asked of a server over an association of its own, as values that go to other processes."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import client, instances
from benchmarks.client import Address, Association, Timing
from benchmarks.instances import CT_IMAGE_STORAGE
from pacs_server.net.message import CommandField


@dataclass(frozen=True, slots=True)
class StoreJob:
    """Images of `side` x `side` pixels to store over one association; `limit` in seconds.

    With `plain` the client is one that leaves Nagle's algorithm on and writes in small pieces.
    """

    address: Address
    side: int
    study: int
    sops: range
    limit: float
    plain: bool = False

    def run(self, wait: Callable[[], object] = lambda: None) -> Timing:
        """Do it; when all is encoded and the association is open, `wait` is called, then the clock starts."""
        with Association(self.address, [CT_IMAGE_STORAGE], no_delay=not self.plain) as association:
            framing = association.framing(CT_IMAGE_STORAGE, small_writes=self.plain)
            template = instances.ct_template(self.side)
            requests = list(instances.store_requests(template, self.study, self.sops, framing))
            wait()
            return client.repeat(requests, association.store, self.limit)


@dataclass(frozen=True, slots=True)
class GetJob:
    """A study to retrieve by C-GET, `times` times over one association; `limit` in seconds."""

    address: Address
    study: int
    times: int
    limit: float

    def run(self, wait: Callable[[], object] = lambda: None) -> Timing:
        """Do it, as a StoreJob does."""
        with Association(self.address, [client.STUDY_ROOT_GET, CT_IMAGE_STORAGE]) as association:
            data = instances.retrieve_template().patched(self.study)
            request = association.request(client.STUDY_ROOT_GET, CommandField.C_GET, data)
            wait()
            return client.repeat([request] * self.times, association.retrieve, self.limit)


@dataclass(frozen=True, slots=True)
class FindJob:
    """As many queries, each for the one study of a patient, over all of `studies` again and again."""

    address: Address
    studies: range
    times: int
    limit: float

    def run(self, wait: Callable[[], object] = lambda: None) -> Timing:
        """Do it, as a StoreJob does."""
        with Association(self.address, [client.STUDY_ROOT_FIND]) as association:
            template = instances.find_template(one_patient=True)
            requests = [
                association.request(client.STUDY_ROOT_FIND, CommandField.C_FIND, template.patched(study))
                for study in itertools.islice(itertools.cycle(self.studies), self.times)
            ]
            wait()
            return client.repeat(requests, association.find, self.limit)


@dataclass(frozen=True, slots=True)
class AssociationJob:
    """As many associations, one after the other, each opened and released."""

    address: Address
    times: int
    limit: float

    def run(self, wait: Callable[[], object] = lambda: None) -> Timing:
        """Do it, as a StoreJob does."""
        wait()
        return client.repeat([self.address] * self.times, client.open_and_release, self.limit)


def store_studies(address: Address, side: int, studies: range, sops: range) -> None:
    """Store one image in each of the studies, not timed."""
    with Association(address, [CT_IMAGE_STORAGE]) as association:
        framing = association.framing(CT_IMAGE_STORAGE)
        template = instances.ct_template(side)
        for study, sop in zip(studies, sops, strict=True):
            for writes in instances.store_requests(template, study, range(sop, sop + 1), framing):
                association.store(writes)
