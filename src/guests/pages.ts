/**
 * The state of each page of a region, one byte a page, and what is remembered of pages that were taken away. Plain data; the pager's thread.
 *
 *              fault            source answered           budget               dropped
 *   absent ───────────▶ loading ───────────────▶ present ────────▶ evicting ───────────▶ evicted
 *      ▲                   │                    dirty, open                                 │ fault
 *      │ the child         ▼ given up               ▲ │ first write: present ─▶ dirty       ▼
 *      └── drops it     failed                      └─┘                                  loading
 */

export const GUEST_PAGE = {
  absent: 0,
  loading: 1,
  /** There, and equal to what the store, or the pager, has: a write would be seen. */
  present: 2,
  /** There, and written to. */
  dirty: 3,
  evicting: 4,
  evicted: 5,
  failed: 6,
  /** There, and nobody knows whether it was written to. */
  open: 7,
} as const;

/** Contents that no store has. */
export interface Saved {
  readonly bytes: Uint8Array;
  /** System pages, by their number in the page, that the child has given up since: these come from the store. */
  readonly holes: Set<number>;
}

/** Pages of one region. */
export class Pages {
  readonly states: Uint8Array;
  /** Of pages that were written to and then taken away. */
  readonly saved: Map<number, Saved> = new Map();
  /** Pages that are there now. */
  resident = 0;
  /** Pages that are on their way. */
  loading = 0;

  constructor(count: number) {
    this.states = new Uint8Array(count);
  }

  get count(): number {
    return this.states.length;
  }

  state(page: number): number {
    return this.states[page] ?? GUEST_PAGE.absent;
  }

  isResident(page: number): boolean {
    return occupies(this.state(page));
  }

  set(page: number, state: number): void {
    const before = this.state(page);
    this.resident += Number(occupies(state)) - Number(occupies(before));
    this.loading += Number(state === GUEST_PAGE.loading) - Number(before === GUEST_PAGE.loading);
    this.states[page] = state;
  }
}

function occupies(state: number): boolean {
  return (
    state === GUEST_PAGE.present ||
    state === GUEST_PAGE.dirty ||
    state === GUEST_PAGE.open ||
    state === GUEST_PAGE.evicting
  );
}
