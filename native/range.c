/*
 * What release and invalidate do to a range of pages. On the caller's thread, never in a handler; signals are masked by the caller. Dirty pages are passed over;
 * one that is written while it is on its way out is closed like the others, found to be dirty, and kept.
 */
#include "engine.h"

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

/* Closed pages go, but for those that are dirty after all. */
static void forget_clean(batch_t *batch, uint64_t *pages, uint32_t count) {
  pf_region_t *region = batch->region;
  uint32_t clean = 0;
  for (uint32_t i = 0; i < count; i++) {
    if (pf_marks(region, pages[i]) & (PF_M_DIRTY | PF_M_STICKY)) {
      pf_budget_staged(region, (int64_t)pf_page_size(region));
      pf_pages_keep_staged(region, &pages[i], 1);
    } else {
      pages[clean++] = pages[i];
    }
  }
  if (clean > 0) {
    pf_pages_forget(region, pages, clean);
  }
  pf_budget_uncharge(region, clean);
  batch->freed += (uint64_t)clean << region->page_shift;
  for (uint32_t i = 0; i < clean; i++) {
    pf_unmark(region, pages[i], PF_M_OF_MEMORY);
    pf_page_settle(region, pages[i], PF_ABSENT);
  }
}

static void finish_writable(batch_t *batch) {
  pf_region_t *region = batch->region;
  uint32_t closed = pf_pages_close(region, batch->open, batch->open_count);
  if (closed < batch->open_count) {
    batch->refused = true;
    pf_pages_return(region, batch->open + closed, batch->open_count - closed);
  }
  atomic_fetch_sub(&region->counters.resident, (uint64_t)closed << region->page_shift);
  forget_clean(batch, batch->open, closed);
}

static void finish_read_only(batch_t *batch) {
  pf_region_t *region = batch->region;
  if (!pf_pages_drop(region, batch->open, batch->open_count)) {
    batch->refused = true;
    pf_pages_return(region, batch->open, batch->open_count);
    return;
  }
  uint64_t bytes = (uint64_t)batch->open_count << region->page_shift;
  atomic_fetch_sub(&region->counters.resident, bytes);
  pf_budget_uncharge(region, batch->open_count);
  batch->freed += bytes;
  for (uint32_t i = 0; i < batch->open_count; i++) {
    pf_page_settle(region, batch->open[i], PF_ABSENT);
  }
}

static void finish(batch_t *batch) {
  if (batch->open_count > 0) {
    if (batch->region->writable) {
      finish_writable(batch);
    } else {
      finish_read_only(batch);
    }
  }
  if (batch->staged_count > 0) {
    pf_budget_staged(batch->region, -(int64_t)((uint64_t)batch->staged_count << batch->region->page_shift));
    forget_clean(batch, batch->staged, batch->staged_count);
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
  return (page & 7) == 0 && page + 8 <= end && atomic_load((const _Atomic uint64_t *)(const void *)&region->states[page]) == 0;
}

/* What is done to the pages between the dirty ones. */
typedef struct {
  batch_t batch;
  uint64_t next;
  void (*clean)(batch_t *batch, uint64_t first, uint64_t end);
} walk_t;

static void pass_dirty(void *context, uint64_t first, uint64_t end) {
  walk_t *walk = context;
  walk->clean(&walk->batch, walk->next, first);
  walk->next = end;
  finish(&walk->batch); /* what comes next may wait for a page, and others must not wait for ours meanwhile */
}

/* An answer that the kernel did not finish leaves pages that may be dirty: they are found out when they are closed. */
static void walk_clean(walk_t *walk, uint64_t first, uint64_t end) {
  walk->next = first;
  pf_region_dirty(walk->batch.region, first, end, pass_dirty, walk);
  walk->clean(&walk->batch, walk->next, end);
  finish(&walk->batch);
}

static void release_clean(batch_t *batch, uint64_t first, uint64_t end) {
  pf_region_t *region = batch->region;
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
        add(batch, page, state == PF_STAGED);
      }
    } else if (state == PF_LOADING && !(seen & PF_PINNED)) {
      done = atomic_compare_exchange_strong(&region->states[page], &seen, seen | PF_STALE);
    }
    page += done;
  }
}

uint64_t pf_region_release(pf_region_t *region, uint64_t first, uint64_t end) {
  walk_t walk = {.batch = {.region = region}, .clean = release_clean};
  walk_clean(&walk, first, end);
  return walk.batch.freed;
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
        finish(batch);
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
      pf_page_unbar(region, page);
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
      if (pf_page_wait(region, page, &wait, &why)) {
        return false;
      }
      batch->refused = true;
      return true;
    }
  }
}

static void invalidate_clean(batch_t *batch, uint64_t first, uint64_t end) {
  for (uint64_t page = first; page < end;) {
    page += eight_absent(batch->region, page, end) ? 8 : invalidate_one(batch, page);
  }
}

bool pf_region_invalidate(pf_region_t *region, uint64_t first, uint64_t end) {
  walk_t walk = {.batch = {.region = region}, .clean = invalidate_clean};
  walk_clean(&walk, first, end);
  return !walk.batch.refused;
}
