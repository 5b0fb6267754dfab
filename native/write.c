/*
 * Writes: letting them through where they are faults, making them for a caller, knowing which pages have any, and forgetting them. Any thread; the first is
 * called in the signal handler, the others with signals masked.
 *
 * Which pages are dirty is a question to two witnesses, asked in this order: the kernel (PF_TRACK_ASYNC), then the marks. A page that leaves its place gets its
 * mark before the kernel forgets about it, or is EVICTING until that is known, and is waited for; a flush marks a page STICKY before it tells the kernel
 * to forget, or owns it until it has. So a page that was dirty when the question began is found by one of the two.
 */
#include "thread.h"

#include <errno.h>
#include <string.h>

#define DIRTY_MARKS (PF_M_DIRTY | PF_M_STICKY)
#define CHUNK 4096 /* bytes copied while a page is owned */

/* --- letting writes through ---------------------------------------------------------------------------------------------- */

/* The page is ours. True: look again. */
static bool open_for_writing(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why) {
  pf_mark(region, page, PF_M_DIRTY | PF_M_WRITABLE); /* before the first write can land */
  int err = pf_back_unprotect(region, page, 1);
  if (err != 0) {
    pf_unmark(region, page, PF_M_WRITABLE); /* dirty it may stay: that costs a write too many, not one too few */
  } else {
    atomic_fetch_add_explicit(&region->counters.write_faults, 1, memory_order_relaxed);
  }
  pf_pages_return(region, &page, 1);
  if (err == 0 || err == -ENOENT) { /* not registered any more: closed meanwhile */
    return true;
  }
  if (pf_now_ns() >= wait->deadline_ns) {
    *why = (pf_why_t){.code = PF_E_NO_MEMORY, .err = -err};
    return false;
  }
  pf_about_to_block();
  pf_sleep_until(pf_now_ns() + 1000000ULL);
  return true;
}

/* The page is ours, and the store must agree first. */
static bool ask_first(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why) {
  uint64_t id = atomic_load(&region->id), offset = page << region->page_shift, serial = pf_failure_serial();
  pf_about_to_block();
  if (!pf_pager_ask_on_write(region, page, wait, why)) {
    pf_pages_return(region, &page, 1);
    return false;
  }
  if (!pf_page_wait(region, page, wait, why)) {
    return false;
  }
  bool refused = !(pf_marks(region, page) & PF_M_WRITABLE) && pf_failure_refused(id, offset, serial, why);
  return !refused;
}

bool pf_page_admit_write(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why) {
  *why = (pf_why_t){0};
  if (pf_must_stop(region, wait, why)) {
    return false;
  }
  if (pf_marks(region, page) & PF_M_WRITABLE) {
    return pf_page_reopen(region, page, wait, why); /* somebody was faster, or it was closed by a collapse */
  }
  bool asks = region->on_write && page < region->store_pages; /* what the store does not have it is not asked about */
  if (asks && pf_pager_is_me(region->source.pager, wait)) {
    *why = (pf_why_t){.code = PF_E_DEADLOCK};
    return false;
  }
  if (!pf_page_own(region, page)) {
    return true;
  }
  if (pf_marks(region, page) & PF_M_WRITABLE) {
    pf_pages_return(region, &page, 1);
    return true;
  }
  return asks ? ask_first(region, page, wait, why) : open_for_writing(region, page, wait, why);
}

/* --- writing for a caller --------------------------------------------------------------------------------------------------- */

/* PF_TRACK_FAULT: while the page is ours nobody can protect it between our mark and our bytes. False: it is not open for writing now. */
static bool write_owned(pf_region_t *region, uint64_t page, size_t within, const uint8_t *from, size_t len) {
  if (!pf_page_own(region, page)) {
    return false;
  }
  bool open = (pf_marks(region, page) & PF_M_WRITABLE) != 0;
  if (open) {
    memcpy((uint8_t *)(uintptr_t)pf_page_bytes(region, page) + within, from, len);
  }
  pf_pages_return(region, &page, 1);
  return open;
}

/* The page, open for writing. Where that may take time, the thread is seen to wait. */
static bool get_writable(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why) {
  bool asks = pf_track_of(region, page) == PF_TRACK_FAULT;
  bool quick = (atomic_load(&region->states[page]) & PF_STATE) == PF_PRESENT && !region->on_write;
  pf_thread_t *thread = quick ? NULL : pf_thread_begin_wait(region, page, wait);
  bool there = pf_page_ensure(region, page, wait, why) && (!asks || pf_page_admit_write(region, page, wait, why));
  pf_thread_end_wait(thread);
  return there;
}

/* One piece within one page, which is held. */
static bool write_piece(pf_region_t *region, uint64_t page, size_t within, const uint8_t *from, size_t len, pf_why_t *why) {
  pf_wait_t wait = {.deadline_ns = pf_now_ns() + region->timeout_ns, .write = true};
  if (pf_track_of(region, page) == PF_TRACK_ASYNC) {
    if (!get_writable(region, page, &wait, why)) {
      return false;
    }
    memcpy(region->base + (page << region->page_shift) + within, from, len);
    return true;
  }
  uint8_t bounce[CHUNK]; /* `from` may be paged itself, even by this page */
  memcpy(bounce, from, len);
  for (;;) {
    if (!get_writable(region, page, &wait, why)) {
      return false;
    }
    if (write_owned(region, page, within, bounce, len)) {
      return true;
    }
    if (pf_now_ns() >= wait.deadline_ns) {
      *why = (pf_why_t){.code = PF_E_TIMEOUT};
      return false;
    }
  }
}

bool pf_region_copy_in(pf_region_t *region, uint64_t offset, const uint8_t *from, size_t len, uint64_t *failed_page, pf_why_t *why) {
  size_t done = 0;
  while (done < len) {
    uint64_t page = (offset + done) >> region->page_shift;
    size_t within = (size_t)((offset + done) & (pf_page_size(region) - 1));
    size_t part = pf_page_size(region) - within < len - done ? pf_page_size(region) - within : len - done;
    part = part < CHUNK ? part : CHUNK;
    *failed_page = page;
    if (pf_page_hold(region, page) != 0) {
      *why = (pf_why_t){.code = PF_E_NO_MEMORY};
      return false;
    }
    bool written = write_piece(region, page, within, from + done, part, why);
    pf_page_unhold(region, page);
    if (!written) {
      return false;
    }
    done += part;
  }
  return true;
}

/* --- which pages are dirty ---------------------------------------------------------------------------------------------------- */

typedef struct {
  pf_region_t *region;
  uint64_t next, end; /* pages that are still to be looked at */
  uint64_t run, run_end;
  void (*each)(void *context, uint64_t first, uint64_t end);
  void *context;
} census_t;

static void found(census_t *census, uint64_t first, uint64_t end) {
  if (census->run_end != first && census->run_end > census->run) {
    census->each(census->context, census->run, census->run_end);
    census->run_end = census->run = 0;
  }
  if (census->run_end == census->run) {
    census->run = first;
  }
  census->run_end = end;
}

/* The kernel may have forgotten already that it was written, and its owner not have marked it yet. */
static bool is_moving(const pf_region_t *region, unsigned state) {
  return state == PF_EVICTING || (state == PF_INSTALLING && region->track == PF_TRACK_ASYNC);
}

/* Returns its state. */
static unsigned wait_until_settled(pf_region_t *region, uint64_t page) {
  pf_wait_t wait = {.deadline_ns = pf_now_ns() + region->timeout_ns};
  pf_why_t why;
  while (is_moving(region, atomic_load(&region->states[page]) & PF_STATE) && pf_page_wait(region, page, &wait, &why)) {
  }
  return atomic_load(&region->states[page]) & PF_STATE;
}

/* `written`: the kernel says so. */
static bool is_dirty(census_t *census, uint64_t page, bool written) {
  pf_region_t *region = census->region;
  unsigned state = atomic_load(&region->states[page]) & PF_STATE;
  bool unsure = state == PF_EVICTING || (!written && is_moving(region, state));
  if (unsure && !(pf_marks(region, page) & DIRTY_MARKS)) { /* with them it is dirty, and may be on its way to the store, which may take its time */
    state = wait_until_settled(region, page);
  }
  unsigned marks = pf_marks(region, page);
  if (marks & PF_M_LOST) {
    return true;
  }
  if (state == PF_FAILED || state == PF_ABSENT || (marks & PF_M_DISCARD)) {
    return false; /* zeroes that the user asked for are nobody's data */
  }
  return written || (marks & DIRTY_MARKS) || is_moving(region, state); /* which nobody waits for any longer: it may be */
}

/* Pages that the kernel says nothing of: eight marks at once while there are none and nothing is on its way. */
static void look_at_marks(census_t *census, uint64_t end) {
  pf_region_t *region = census->region;
  while (census->next < end) {
    uint64_t page = census->next;
    if ((page & 7) == 0 && page + 8 <= end) {
      /* In this order: a page that is EVICTING or INSTALLING gets its mark before it is anything else. */
      uint64_t states = atomic_load((const _Atomic uint64_t *)(const void *)&region->states[page]);
      uint64_t marks = atomic_load((const _Atomic uint64_t *)(const void *)&region->marks[page]);
      uint64_t low = 0x0101010101010101ULL; /* EVICTING is 3 and INSTALLING 6: the second bit, and one of its neighbours */
      uint64_t moving = (states >> 1) & (states ^ (states >> 2)) & low;
      if ((marks & low * (DIRTY_MARKS | PF_M_LOST)) == 0 && moving == 0) {
        census->next += 8;
        continue;
      }
    }
    if (is_dirty(census, page, false)) {
      found(census, page, page + 1);
    }
    census->next++;
  }
}

/* Eight pages, from a multiple of eight, that are PRESENT and about which the marks have nothing to say if they were written. */
static bool all_plain(const pf_region_t *region, uint64_t page) {
  uint64_t low = 0x0101010101010101ULL;
  uint64_t states = atomic_load((const _Atomic uint64_t *)(const void *)&region->states[page]);
  uint64_t marks = atomic_load((const _Atomic uint64_t *)(const void *)&region->marks[page]);
  return (states & low * PF_STATE) == low * PF_PRESENT && (marks & low * (PF_M_DISCARD | PF_M_LOST)) == 0;
}

static void on_written(void *context, uint8_t *start, uint8_t *end) {
  census_t *census = context;
  pf_region_t *region = census->region;
  uint64_t first = (uint64_t)(start - region->base) >> region->page_shift;
  uint64_t last = (uint64_t)(end - 1 - region->base) >> region->page_shift;
  if (first > census->end) {
    return;
  }
  if (first > census->next) {
    look_at_marks(census, first);
  }
  while (census->next <= last && census->next < census->end) {
    uint64_t page = census->next, count = (page & 7) == 0 && page + 7 <= last && page + 8 <= census->end && all_plain(region, page) ? 8 : 1;
    if (count == 8 || is_dirty(census, page, true)) {
      found(census, page, page + count);
    }
    census->next += count;
  }
}

typedef void each_t(void *context, uint64_t first, uint64_t end);

static int take_census(pf_region_t *region, uint64_t first, uint64_t end, each_t *each, void *context) {
  census_t census = {.region = region, .next = first, .end = end, .each = each, .context = context};
  if (region->marks == NULL || first >= end) {
    return 0;
  }
  int err = 0;
  if (region->track == PF_TRACK_ASYNC) {
    size_t len = (size_t)(end - first) << region->page_shift;
    err = pf_own_uffd_written(region->base + (first << region->page_shift), len, on_written, &census);
  }
  look_at_marks(&census, end);
  if (census.run_end > census.run) {
    each(context, census.run, census.run_end);
  }
  return err;
}

int pf_region_dirty(pf_region_t *region, uint64_t first, uint64_t end, void (*each)(void *context, uint64_t first, uint64_t end), void *context) {
  return take_census(region, first, end < region->store_pages ? end : region->store_pages, each, context);
}

/* --- forgetting them ------------------------------------------------------------------------------------------------------- */

typedef struct {
  pf_region_t *region;
  bool refused;
} discard_t;

static bool discard_present(pf_region_t *region, uint64_t page) {
  uint64_t one = page;
  if (!pf_pages_drop(region, &one, 1)) {
    pf_pages_return(region, &one, 1);
    return false;
  }
  pf_unmark(region, page, PF_M_OF_MEMORY | PF_M_LOST);
  atomic_fetch_sub(&region->counters.resident, pf_page_size(region));
  pf_budget_uncharge(region, 1);
  pf_page_settle(region, page, PF_ABSENT);
  return true;
}

static void discard_staged(pf_region_t *region, uint64_t page) {
  uint64_t one = page;
  pf_pages_forget(region, &one, 1);
  pf_unmark(region, page, PF_M_OF_MEMORY | PF_M_LOST);
  pf_budget_staged(region, -(int64_t)pf_page_size(region));
  pf_budget_uncharge(region, 1);
  pf_page_settle(region, page, PF_ABSENT);
}

/* A page that only a flush or a copy holds must be gone before the caller goes on, who may write to it again. A pager cannot wait for what it is asked to write. */
static bool outlives(pf_region_t *region, uint64_t page) {
  bool mine = region->source.kind == PF_SOURCE_PAGER && pf_pager_is_me(region->source.pager, NULL);
  return mine || pf_page_outlive_copies(region, page);
}

/* False: look again. */
static bool discard_one(discard_t *discard, uint64_t page) {
  pf_region_t *region = discard->region;
  pf_state_t *byte = &region->states[page];
  uint8_t seen = atomic_load(byte);
  unsigned state = seen & PF_STATE;
  if (state == PF_ABSENT || state == PF_FAILED) {
    pf_unmark(region, page, PF_M_LOST); /* what the store has counts */
    return true;
  }
  if (state == PF_LOADING || (state == PF_PRESENT && (seen & PF_PINNED))) {
    /* Held: by a pin, a flush, a copy, or a thread that is about to take it back. It goes when they let it go. */
    pf_mark(region, page, PF_M_DISCARD);
    if (!atomic_compare_exchange_strong(byte, &seen, seen | PF_STALE)) {
      pf_unmark(region, page, PF_M_DISCARD);
      return false;
    }
    return state == PF_LOADING || outlives(region, page);
  }
  if (state == PF_PRESENT || state == PF_STAGED) {
    if (!atomic_compare_exchange_strong(byte, &seen, (uint8_t)((seen & ~PF_STATE) | PF_EVICTING))) {
      return false;
    }
    if (state == PF_STAGED) {
      discard_staged(region, page);
    } else if (!discard_present(region, page)) {
      discard->refused = true;
    }
    return true;
  }
  pf_wait_t wait = {.deadline_ns = pf_now_ns() + region->timeout_ns};
  pf_why_t why;
  if (pf_page_wait(region, page, &wait, &why)) {
    return false;
  }
  discard->refused = true;
  return true;
}

static void discard_run(void *context, uint64_t first, uint64_t end) {
  for (uint64_t page = first; page < end; page++) {
    while (!discard_one(context, page)) {
    }
  }
}

bool pf_region_discard(pf_region_t *region, uint64_t first, uint64_t end) {
  discard_t discard = {.region = region};
  int err = take_census(region, first, end, discard_run, &discard); /* behind the store's end, too */
  return err == 0 && !discard.refused;
}

/* --- seeing the next write again ------------------------------------------------------------------------------------------- */

void pf_region_reset_write_detection(pf_region_t *region, uint64_t first, uint64_t end) {
  for (uint64_t page = first; page < end && region->marks != NULL; page++) { /* only pages whose writes are faults have the mark */
    while (pf_marks(region, page) & PF_M_WRITABLE) {
      if (pf_page_own(region, page)) {
        pf_back_protect(region, page, 1);
        pf_unmark(region, page, PF_M_WRITABLE); /* even if that failed, for then a part of it may be protected; it is DIRTY all the same */
        pf_pages_return(region, &page, 1);
        break;
      }
      uint8_t seen = atomic_load(&region->states[page]);
      unsigned state = seen & PF_STATE;
      pf_wait_t wait = {.deadline_ns = pf_now_ns() + region->timeout_ns};
      pf_why_t why;
      if (state == PF_STAGED && atomic_compare_exchange_strong(&region->states[page], &seen, (uint8_t)((seen & ~PF_STATE) | PF_EVICTING))) {
        pf_unmark(region, page, PF_M_WRITABLE);
        pf_pages_keep_staged(region, &page, 1);
        break;
      }
      if (state == PF_ABSENT || state == PF_FAILED || (state != PF_PRESENT && state != PF_STAGED && !pf_page_wait(region, page, &wait, &why))) {
        break;
      }
    }
  }
}
