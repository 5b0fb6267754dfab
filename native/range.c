/*
 * What release and invalidate do to a range of pages. On the caller's thread, never in a handler; signals are masked by the caller.
 */
#include "engine.h"

#include <string.h>

typedef struct {
  pf_region_t *region;
  uint64_t open[PF_BATCH_MAX], staged[PF_BATCH_MAX]; /* pages that are EVICTING, by what holds their bytes */
  uint32_t open_count, staged_count;
  uint64_t freed;
  bool refused; /* some could not be dropped */
} batch_t;

/* `stale`: should it have to stay, its bytes are old. */
static bool take(pf_region_t *region, uint64_t page, uint8_t seen, bool stale) {
  uint8_t next = (uint8_t)((seen & ~PF_STATE) | PF_EVICTING | (stale ? PF_STALE : 0));
  return atomic_compare_exchange_strong(&region->states[page], &seen, next);
}

static void finish(batch_t *batch) {
  pf_region_t *region = batch->region;
  if (batch->open_count > 0) {
    bool dropped = pf_pages_drop(region, batch->open, batch->open_count);
    batch->refused = batch->refused || !dropped;
    uint64_t bytes = dropped ? (uint64_t)batch->open_count << region->page_shift : 0;
    atomic_fetch_sub(&region->counters.resident, bytes);
    pf_budget_uncharge(region, bytes >> region->page_shift);
    batch->freed += bytes;
    for (uint32_t i = 0; i < batch->open_count; i++) {
      pf_page_settle(region, batch->open[i], dropped ? PF_ABSENT : PF_PRESENT);
    }
  }
  if (batch->staged_count > 0) {
    uint64_t bytes = (uint64_t)batch->staged_count << region->page_shift;
    pf_pages_forget(region, batch->staged, batch->staged_count);
    pf_budget_staged(region, -(int64_t)bytes);
    pf_budget_uncharge(region, batch->staged_count);
    batch->freed += bytes;
    for (uint32_t i = 0; i < batch->staged_count; i++) {
      pf_page_settle(region, batch->staged[i], PF_ABSENT);
    }
  }
  batch->open_count = batch->staged_count = 0;
}

static void add(batch_t *batch, uint64_t page, bool staged) {
  if (staged) {
    batch->staged[batch->staged_count++] = page;
  } else {
    batch->open[batch->open_count++] = page;
  }
  if (batch->open_count == PF_BATCH_MAX || batch->staged_count == PF_BATCH_MAX) {
    finish(batch);
  }
}

/* Eight pages at once that nobody ever touched: most of a large, sparse segment. */
static bool eight_absent(const pf_region_t *region, uint64_t page, uint64_t end) {
  uint64_t word;
  if ((page & 7) != 0 || page + 8 > end) {
    return false;
  }
  memcpy(&word, (const void *)&region->states[page], sizeof word);
  return word == 0;
}

uint64_t pf_region_release(pf_region_t *region, uint64_t first, uint64_t end) {
  batch_t batch = {.region = region};
  for (uint64_t page = first; page < end;) {
    if (eight_absent(region, page, end)) {
      page += 8;
      continue;
    }
    uint8_t seen = atomic_load(&region->states[page]);
    unsigned state = seen & PF_STATE;
    bool done = true;
    if ((state == PF_PRESENT || state == PF_STAGED) && !(seen & PF_PINNED)) {
      done = take(region, page, seen, false);
      if (done) {
        add(&batch, page, state == PF_STAGED);
      }
    } else if (state == PF_LOADING && !(seen & PF_PINNED)) {
      done = atomic_compare_exchange_strong(&region->states[page], &seen, seen | PF_STALE);
    }
    page += done;
  }
  finish(&batch);
  return batch.freed;
}

/* One page; false: look again. */
static bool invalidate_one(batch_t *batch, uint64_t page) {
  pf_region_t *region = batch->region;
  uint8_t seen = atomic_load(&region->states[page]);
  switch (seen & PF_STATE) {
    case PF_ABSENT:
      return true;
    case PF_LOADING:
      return atomic_compare_exchange_strong(&region->states[page], &seen, seen | PF_STALE);
    case PF_PRESENT:
      if (seen & PF_PINNED) { /* pin.c drops it when the last pin goes; copies are waited for, and then it must settle */
        return atomic_compare_exchange_strong(&region->states[page], &seen, seen | PF_STALE) && pf_page_outlive_copies(region, page);
      }
      if (!take(region, page, seen, true)) {
        return false;
      }
      add(batch, page, false);
      return true;
    case PF_STAGED:
      if (!take(region, page, seen, false)) {
        return false;
      }
      add(batch, page, true);
      return true;
    case PF_FAILED: {
      uint64_t one = page;
      if (!atomic_compare_exchange_strong(&region->states[page], &seen, (uint8_t)((seen & ~(PF_STATE | PF_ZEROED)) | PF_EVICTING))) {
        return false;
      }
      pf_block_enter(region, page);
      if (seen & PF_ZEROED) {
        pf_pages_drop(region, &one, 1);
      }
      atomic_fetch_sub(&region->counters.failed_pages, 1);
      pf_page_settle(region, page, PF_ABSENT);
      return true;
    }
    default: { /* INSTALLING, EVICTING: it may be visible with the old bytes, so it must settle first */
      pf_wait_t wait = {.deadline_ns = pf_now_ns() + region->timeout_ns};
      pf_why_t why;
      finish(batch); /* it may be one of ours */
      return !pf_page_wait(region, page, &wait, &why);
    }
  }
}

bool pf_region_invalidate(pf_region_t *region, uint64_t first, uint64_t end) {
  batch_t batch = {.region = region};
  for (uint64_t page = first; page < end;) {
    page += eight_absent(region, page, end) ? 8 : invalidate_one(&batch, page);
  }
  finish(&batch);
  return !batch.refused;
}
