"""The list of hostile scenarios, for the tests and for `make soak`."""

from collections.abc import Callable
from dataclasses import dataclass

from hostile import before_association, in_association, services, stow, web
from hostile.peers import Target


@dataclass(frozen=True)
class Scenario:
    """One kind of hostile peer; `run` does it once and returns how many hostile acts that was.

    `rounds` is how often the tests run it, 0 only in a soak, `share` its part of that. So many `threads` may wait for
    work afterwards.
    """

    run: Callable[[Target], int]
    rounds: int = 1
    share: int = 1
    threads: int = 0

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return self.run.__name__.replace("_", " ")


SCENARIOS = (
    Scenario(before_association.half_open),
    Scenario(before_association.dripping_proposals),
    Scenario(before_association.announced_lengths),
    Scenario(before_association.bare_connects, rounds=2, share=3),
    Scenario(before_association.resets),
    Scenario(before_association.odd_titles),
    Scenario(before_association.mutated_proposals, rounds=2, share=2),
    Scenario(before_association.many_contexts),
    Scenario(before_association.idle_crowd),
    Scenario(in_association.mutated_exchanges, rounds=2, share=3),
    Scenario(in_association.odd_presentation_data_values),
    Scenario(in_association.commands_in_single_bytes),
    Scenario(in_association.empty_pdus),
    Scenario(in_association.dripping_messages),
    Scenario(in_association.unread_answers),
    Scenario(in_association.pipelined_echoes),
    Scenario(in_association.cancel_floods),
    Scenario(in_association.release_collisions),
    Scenario(in_association.endings_everywhere),
    Scenario(in_association.endings_at_any_byte),
    Scenario(in_association.responses_to_nothing),
    Scenario(services.odd_uids),
    Scenario(services.patterns),
    Scenario(services.long_identifiers),
    Scenario(services.deep_sequences),
    Scenario(services.wide_data_sets),
    Scenario(services.deflate_bombs),
    Scenario(services.bad_destinations),
    Scenario(services.moves_left_behind),
    Scenario(services.lying_objects),
    # Last, because threads that make answers wait for more to do.
    Scenario(web.http_connects, rounds=2, share=2),
    Scenario(web.http_crowd, rounds=2, threads=web.THREADS),
    Scenario(web.http_dripping, threads=web.THREADS),
    Scenario(web.http_unread_answers, threads=web.THREADS),
    Scenario(web.http_lengths, rounds=2, threads=web.THREADS),
    Scenario(web.http_chunks, threads=web.THREADS),
    Scenario(web.http_bombs, rounds=2, threads=web.THREADS),
    Scenario(web.http_smuggling, rounds=3, threads=web.THREADS),
    Scenario(web.http_paths, rounds=3, threads=web.THREADS),
    Scenario(web.http_pipelines, rounds=2, threads=web.THREADS),
    Scenario(web.http_mutations, share=3, threads=web.THREADS),
    Scenario(stow.stow_dripping, threads=stow.THREADS),
    Scenario(stow.stow_cut_bodies, rounds=2, threads=stow.THREADS),
    Scenario(stow.stow_without_end, threads=stow.THREADS),
    Scenario(stow.stow_announced_lengths, rounds=4, threads=stow.THREADS),
    Scenario(stow.stow_bombs, threads=stow.THREADS),
    Scenario(stow.stow_tiny_parts, threads=stow.THREADS),
    Scenario(stow.stow_wrong_boundaries, threads=stow.THREADS),
    Scenario(stow.stow_aborted, rounds=2, share=2, threads=stow.THREADS),
    Scenario(web.http_slow, rounds=0, threads=web.THREADS),
    Scenario(web.http_ten_thousand, rounds=0, threads=web.THREADS),
)
