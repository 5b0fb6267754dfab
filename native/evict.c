/*
 * Evicting: what goes when a budget has no room. On the thread that needs it, in a signal handler too.
 *
 *        loaded ──▶ FIFO ──▶ dropped                        where a load is cheap
 *                    │ ▲
 *                    ▼ │ touched: stolen back
 *                  staged ──▶ dropped                       where it is dear: no more than STAGED_SHARE of the pages
 *
 * There is no accessed bit to be had, but closing a page and seeing whether it is touched again before its turn comes is as good
 * as one. It costs two faults for every page that it saves, so it pays only where a load costs more than that.
 *
 * Pages of a writable region are closed before they go (close.c), and the dirty ones are written first (retire.c).
 */
#include "budget.h"

#define DEAR_NS 15000     /* a load above this: stage */
#define CHEAP_NS 8000     /* below this: stage no more */
#define STAGED_SHARE 4    /* at most a quarter of the budget is staged */
#define ROUND 4096        /* pages looked at with the lock held */

/* --- who goes ---------------------------------------------------------------------------------------------------------- */

typedef struct {
  pf_region_t *region[PF_BATCH_MAX];
  uint64_t page[PF_BATCH_MAX];
  uint32_t count;
  uint64_t bytes;
} victims_t;

/* Looks at some pages at the front of a queue; *left is how many are to be looked at in all. See collect. */
static void collect_some(pf_budget_t *budget, pf_ring_t *ring, unsigned from, uint64_t want, uint32_t most, size_t *left, victims_t *out) {
  pf_lock(&budget->lock);
  *left = *left < ring->pages ? *left : ring->pages;
  size_t tries = *left < ROUND ? *left : ROUND;
  *left -= tries;
  for (; tries > 0 && out->bytes < want && out->count < most; tries--) {
    uint32_t number = pf__ring_pop(ring);
    uint64_t page;
    pf_region_t *region = pf__member_of(budget, number, &page);
    if (region == NULL) {
      continue;
    }
    pf_state_t *byte = &region->states[page];
    uint8_t seen = atomic_load_explicit(byte, memory_order_relaxed);
    if ((seen & PF_STATE) == from && (seen & PF_PINNED)) {
      pf__ring_push(ring, number); /* it stays, and keeps its turn */
      continue;
    }
    if (from == PF_PRESENT) {
      seen = (uint8_t)(atomic_fetch_and(byte, (uint8_t)~PF_QUEUED) & ~PF_QUEUED);
    }
    if ((seen & PF_STATE) != from || (seen & PF_PINNED) ||
        !atomic_compare_exchange_strong(byte, &seen, (uint8_t)((seen & ~PF_STATE) | PF_EVICTING))) {
      if ((seen & PF_STATE) == from && (from == PF_STAGED || !(atomic_fetch_or(byte, PF_QUEUED) & PF_QUEUED))) {
        pf__ring_push(ring, number); /* pinned in this moment */
      }
      continue;
    }
    atomic_fetch_add(&region->users, 1);
    out->region[out->count] = region;
    out->page[out->count++] = page;
    out->bytes += pf_page_size(region);
  }
  pf__queue_changed(budget);
  pf_unlock(&budget->lock);
}

/* Takes pages from the front of a queue into EVICTING, up to `want` bytes and `most` pages. Their regions are entered. The lock is let go between
 * rounds: pages that were released in between are passed over, and there may be millions. */
static void collect(pf_budget_t *budget, pf_ring_t *ring, unsigned from, uint64_t want, uint32_t most, victims_t *out) {
  out->count = 0;
  out->bytes = 0;
  size_t left = SIZE_MAX;
  while (left > 0 && out->bytes < want && out->count < most) {
    collect_some(budget, ring, from, want, most, &left, out);
  }
}

/* The next region among the victims and its pages, taken out of the list; false when there is none left. The region is left when all is done with all of them. */
static bool next_group(victims_t *victims, pf_region_t **region, uint64_t pages[PF_BATCH_MAX], uint32_t *count) {
  if (victims->count == 0) {
    return false;
  }
  *region = victims->region[0];
  *count = 0;
  uint32_t rest = 0;
  for (uint32_t i = 0; i < victims->count; i++) {
    if (victims->region[i] == *region) {
      pages[(*count)++] = victims->page[i];
    } else {
      victims->region[rest] = victims->region[i];
      victims->page[rest++] = victims->page[i];
    }
  }
  victims->count = rest;
  return true;
}

/* lock not held. The entry comes after the state, so that a page found in the queue is STAGED unless it was touched again. */
static void enqueue_staged(pf_budget_t *budget, pf_region_t *region, const uint64_t *pages, uint32_t count) {
  pf_lock(&budget->lock);
  if (region->budget_member) {
    if (!pf__ring_has_room(&budget->stage, count)) {
      pf__ring_compact(budget, &budget->stage, PF_STAGED, NULL);
    }
    for (uint32_t i = 0; i < count && pf__ring_has_room(&budget->stage, 1); i++) {
      pf__ring_push(&budget->stage, region->budget_first + (uint32_t)pages[i]);
    }
  }
  pf_unlock(&budget->lock);
}

void pf_pages_keep_staged(pf_region_t *region, const uint64_t *pages, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    pf_page_settle(region, pages[i], PF_STAGED);
  }
  if (region->budget != NULL) {
    enqueue_staged(region->budget, region, pages, count);
  }
}

/* --- dropping and staging ---------------------------------------------------------------------------------------------- */

/* Closes pages of a writable region; those that cannot be closed now go back. How many are closed; of these *gone are dropped already, or, gone NULL, none. */
static uint32_t close_group(pf_region_t *region, uint64_t *pages, uint32_t count, uint32_t *gone) {
  uint32_t closed = gone == NULL ? pf_pages_close(region, pages, count) : pf_pages_close_or_drop(region, pages, count, gone);
  if (closed < count) {
    pf_pages_return(region, pages + closed, count - closed);
  }
  uint64_t bytes = (uint64_t)closed << region->page_shift;
  atomic_fetch_add(&region->counters.evictions, closed);
  atomic_fetch_sub(&region->counters.resident, bytes);
  return closed;
}

static uint64_t drop_present(victims_t *victims) {
  pf_region_t *region;
  uint64_t pages[PF_BATCH_MAX], freed = 0;
  uint32_t count;
  while (next_group(victims, &region, pages, &count)) {
    if (region->writable) {
      uint32_t gone, closed = close_group(region, pages, count, &gone);
      freed += pf_pages_leave(region, pages, gone);
      freed += pf_pages_retire(region, pages + gone, closed - gone);
    } else if (pf_pages_drop(region, pages, count)) {
      uint64_t bytes = (uint64_t)count << region->page_shift;
      atomic_fetch_add(&region->counters.evictions, count);
      atomic_fetch_sub(&region->counters.resident, bytes);
      pf_budget_uncharge(region, count);
      freed += bytes;
      for (uint32_t i = 0; i < count; i++) {
        pf_page_settle(region, pages[i], PF_ABSENT);
      }
    } else {
      pf_pages_return(region, pages, count);
    }
    atomic_fetch_sub(&region->users, count);
  }
  return freed;
}

static uint64_t drop_staged(victims_t *victims) {
  pf_region_t *region;
  uint64_t pages[PF_BATCH_MAX], freed = 0;
  uint32_t count;
  while (next_group(victims, &region, pages, &count)) {
    pf_budget_staged(region, -(int64_t)((uint64_t)count << region->page_shift)); /* those that stay are counted again */
    freed += pf_pages_retire(region, pages, count);
    atomic_fetch_sub(&region->users, count);
  }
  return freed;
}

/* Old bytes must not be kept: such a page goes. How many are left. */
static uint32_t without_stale(pf_region_t *region, uint64_t *pages, uint32_t count) {
  uint32_t fine = 0;
  for (uint32_t i = 0; i < count; i++) {
    if (atomic_load(&region->states[pages[i]]) & PF_STALE) {
      pf_pages_return(region, &pages[i], 1);
    } else {
      pages[fine++] = pages[i];
    }
  }
  return fine;
}

static void stage_present(victims_t *victims) {
  pf_region_t *region;
  uint64_t pages[PF_BATCH_MAX];
  uint32_t count;
  while (next_group(victims, &region, pages, &count)) {
    uint32_t closed = close_group(region, pages, without_stale(region, pages, count), NULL);
    pf_budget_staged(region, (int64_t)((uint64_t)closed << region->page_shift));
    pf_pages_keep_staged(region, pages, closed);
    atomic_fetch_sub(&region->users, count);
  }
}

bool pf__is_dear(const pf_budget_t *budget, const pf_region_t *region) {
  uint32_t cost = atomic_load_explicit(&region->load_cost_ns, memory_order_relaxed);
  return cost >= (atomic_load(&budget->staged) > 0 ? CHEAP_NS : DEAR_NS);
}

/* How much may be staged: a part of what is not pinned, and never so much that threads evict from each other what they need at once. */
static uint64_t staging_target(const pf_budget_t *budget, uint64_t room) {
  uint64_t pinned = atomic_load(&budget->pinned), needed = pf__pages_needed(budget) * atomic_load(&budget->largest);
  uint64_t loose = room > pinned + needed ? room - pinned : 0;
  return loose == 0 ? 0 : loose / STAGED_SHARE < loose - needed ? loose / STAGED_SHARE : loose - needed;
}

/* Frees about `want` bytes; 0 when nothing can go at the moment. `dear`: the region that needs room is slow to load. */
uint64_t pf__make_room(pf_budget_t *budget, uint64_t want, bool dear, uint64_t room) {
  victims_t victims;
  uint64_t freed = 0;
  uint64_t target = dear ? staging_target(budget, room) : 0;
  if (atomic_load(&budget->staged) >= (target > 0 ? target : 1)) {
    collect(budget, &budget->stage, PF_STAGED, want, PF_BATCH_MAX, &victims);
    freed = drop_staged(&victims);
  }
  if (freed == 0) {
    collect(budget, &budget->fifo, PF_PRESENT, want, PF_BATCH_MAX, &victims);
    freed = drop_present(&victims);
  }
  if (target > 0) { /* what was dropped, or a little more, follows into the queue: it fills up over time, not at once */
    collect(budget, &budget->fifo, PF_PRESENT, freed == 0 ? want : freed, PF_STAGE_BATCH, &victims);
    stage_present(&victims);
  }
  if (freed == 0) {
    collect(budget, &budget->stage, PF_STAGED, want, PF_BATCH_MAX, &victims);
    freed = drop_staged(&victims);
  }
  return freed;
}
