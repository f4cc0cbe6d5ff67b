from streams.trips.samples import Moment, Row

class Rows:
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Row: ...
    def alike(self, begin: int, last: int, longest: int, trigger: int) -> int: ...
    def add_up(
        self,
        begin: int,
        end: int,
        last: int,
        longest_gap: int,
        max_speed: int | None,
        idle_ms: int,
        slow_at: int | None,
        path_end: tuple[int, int, int] | None,
    ) -> tuple[int, int, int | None, int, int | None, tuple[int, int, int] | None, int, int, bool, int | None]: ...

def in_order(parts: list[bytes], after: Moment, to: Moment) -> Rows | None: ...
