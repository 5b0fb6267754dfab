/*
 * One page and its state byte: moving it on, waiting for it, making it visible, taking it back. These are the arrows of the drawing in engine.h; what the
 * kernel is told is in backend.c and close.c.
 * Any thread, in the signal handler too; no lock but the budget's is taken, and none is held while the kernel is called.
 */
#include "engine.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define WAIT_SLICE_NS 50000000ULL /* how late a waiter may notice that its segment was closed or the process exits */

static void *word_of(pf_state_t *byte) { return (void *)((uintptr_t)byte & ~(uintptr_t)3); }

/* The owner moves its page on; what others may set meanwhile (WAITED, PINNED) is heeded. A page that was to be dropped and stays PRESENT after
 * all is still STALE. Returns the byte as it was. */
static uint8_t move_on(pf_region_t *region, uint64_t page, unsigned next) {
  pf_state_t *byte = &region->states[page];
  uint8_t seen = atomic_load_explicit(byte, memory_order_relaxed);
  uint8_t kept;
  do {
    bool put_back = (seen & PF_STATE) == PF_EVICTING && (next & PF_STATE) == PF_PRESENT;
    kept = (uint8_t)(seen & (PF_QUEUED | PF_PINNED | (put_back ? PF_STALE : 0)));
  } while (!atomic_compare_exchange_weak_explicit(byte, &seen, (uint8_t)(kept | next), memory_order_acq_rel, memory_order_relaxed));
  if (seen & PF_WAITED) {
    pf_futex_wake_all(word_of(byte));
  }
  unsigned state = next & PF_STATE;
  if (state == PF_ABSENT || state == PF_FAILED) {
    pf_block_leave(region, page);
  }
  return seen;
}

void pf_page_settle(pf_region_t *region, uint64_t page, unsigned state) { move_on(region, page, state); }

bool pf_page_own(pf_region_t *region, uint64_t page) {
  uint8_t seen = atomic_load(&region->states[page]);
  return (seen & PF_STATE) == PF_PRESENT &&
         atomic_compare_exchange_strong(&region->states[page], &seen, (uint8_t)((seen & ~PF_STATE) | PF_INSTALLING));
}

void pf_pages_return(pf_region_t *region, const uint64_t *pages, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    pf_state_t *byte = &region->states[pages[i]];
    uint8_t seen = atomic_load_explicit(byte, memory_order_relaxed);
    unsigned queued = region->budget != NULL ? PF_QUEUED : 0;
    while (!atomic_compare_exchange_weak(byte, &seen, (uint8_t)((seen & (PF_PINNED | PF_STALE)) | PF_PRESENT | queued))) {
    }
    if (seen & PF_WAITED) {
      pf_futex_wake_all(word_of(byte));
    }
    if (queued && !(seen & PF_QUEUED)) { /* eviction came by while it was ours, and passed it over */
      pf_budget_enqueue(region, &pages[i], 1);
    }
    if (seen & PF_STALE) { /* its last pin may have gone while it was ours, and passed it over too */
      pf_page_drop_stale(region, pages[i]);
    }
  }
}

void pf_pages_wake(pf_region_t *region, uint64_t page, uint32_t count) {
  if (region->served) {
    pf_own_uffd_wake(pf_own_of(region, page), pf_page_address(region, page), (size_t)count << region->page_shift);
  }
}

void pf_pages_unclaim(pf_region_t *region, uint64_t page, uint32_t count) {
  pf_budget_uncharge(region, count);
  for (uint32_t i = 0; i < count; i++) {
    pf_patch_unclaim(region, page + i);
    move_on(region, page + i, PF_ABSENT);
  }
}

/* LOADING → INSTALLING for all of them, or for none: *again when one went stale (its mark is taken off). */
static void begin_install(pf_region_t *region, uint64_t page, uint32_t count, bool *again) {
  *again = false;
  for (uint32_t i = 0; i < count; i++) {
    pf_state_t *byte = &region->states[page + i];
    uint8_t seen = atomic_load_explicit(byte, memory_order_relaxed);
    uint8_t next;
    do {
      next = (uint8_t)((seen & (PF_QUEUED | PF_PINNED | PF_WAITED)) | (seen & PF_STALE ? PF_LOADING : PF_INSTALLING));
    } while (!atomic_compare_exchange_weak_explicit(byte, &seen, next, memory_order_acq_rel, memory_order_relaxed));
    if (seen & PF_STALE) {
      *again = true;
      while (i-- > 0) {
        move_on(region, page + i, PF_LOADING);
      }
      return;
    }
  }
}

bool pf_page_fail(pf_region_t *region, uint64_t page, pf_why_t why, const char *message, const char *cause) {
  bool stale;
  begin_install(region, page, 1, &stale); /* what is INSTALLING does not become stale: whoever invalidates it waits, and finds it FAILED */
  if (stale) {
    return false;
  }
  pf_failure_record(region, page, PF_ASK_READ, why, message, cause);
  pf_patch_unclaim(region, page);
  pf_budget_uncharge(region, 1);
  atomic_fetch_add(&region->counters.failures, 1);
  atomic_fetch_add(&region->counters.failed_pages, 1);
  move_on(region, page, PF_FAILED);
  return true;
}

/* --- waiting ------------------------------------------------------------------------------------------------------- */

/* Sleeps until the byte is no longer `seen`, the slice is over or anything else happens. */
static void sleep_on(pf_state_t *byte, uint8_t seen, uint64_t until) {
  if (!(seen & PF_WAITED)) {
    if (!atomic_compare_exchange_strong(byte, &seen, seen | PF_WAITED)) {
      return;
    }
    seen |= PF_WAITED;
  }
  _Atomic uint32_t *word = word_of(byte);
  uint32_t value = atomic_load(word);
  uint8_t bytes[4];
  memcpy(bytes, &value, sizeof value);
  if (bytes[(uintptr_t)byte & 3] == seen) {
    pf_futex_wait(word, value, until);
  }
}

/* The deadline is over. True: the page has moved on, look again. */
static bool give_up(pf_region_t *region, uint64_t page, pf_why_t *why) {
  if (region->source.kind == PF_SOURCE_PAGER && pf_pager_abandon(region, page)) {
    return true;
  }
  *why = (pf_why_t){.code = PF_E_TIMEOUT};
  return false;
}

bool pf_must_stop(pf_region_t *region, const pf_wait_t *wait, pf_why_t *why) {
  if (atomic_load(&region->phase) != PF_PHASE_OPEN) {
    *why = (pf_why_t){.code = PF_E_CLOSED};
    return true;
  }
  if ((wait->cancel != NULL && atomic_load(wait->cancel) != 0) || pf_exit_joins(wait->tid)) {
    *why = (pf_why_t){.code = PF_E_ABORTED};
    return true;
  }
  return false;
}

/* True after a slice; the first time the guard hears of it, so that it is in time when the wait is late. */
static bool is_long(uint64_t *began, uint64_t now) {
  if (*began == 0) {
    *began = now;
  }
  if (*began != 1 && now - *began >= WAIT_SLICE_NS) {
    *began = 1;
    pf_guard_kick();
  }
  return *began == 1;
}

bool pf_page_wait(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why) {
  pf_state_t *byte = &region->states[page];
  bool pager = region->source.kind == PF_SOURCE_PAGER;
  uint64_t deadline = wait->deadline_ns + (pager ? PF_PAGER_GRACE_NS : 0);
  uint64_t began = 0;
  pf_knot_t knot = {0};
  atomic_fetch_add_explicit(&region->counters.waits, 1, memory_order_relaxed);
  pf_note_doing(wait, PF_DOES_WAIT);
  for (;;) {
    uint8_t seen = atomic_load(byte);
    unsigned state = seen & PF_STATE;
    if (state != PF_LOADING && state != PF_INSTALLING && state != PF_EVICTING) {
      return true;
    }
    if (pf_must_stop(region, wait, why)) {
      return false;
    }
    if (pager && pf_pager_is_me(region->source.pager, wait) && (state == PF_LOADING || pf_pager_has(region, page))) {
      *why = (pf_why_t){.code = PF_E_DEADLOCK};
      return false;
    }
    *why = (pf_why_t){0};
    uint64_t now = pf_now_ns();
    if (now >= deadline) {
      if (!give_up(region, page, why)) {
        return false;
      }
      continue;
    }
    if (is_long(&began, now) && pager) {
      if (pf_deadlocked(region, page, wait, &knot)) {
        why->code = PF_E_DEADLOCK;
        return false;
      }
      if (!wait->background) {
        pf_pager_hurry(region, page); /* it may have been LOADING before it was asked for ahead, and we may have looked in between */
      }
    }
    pf_about_to_block();
    sleep_on(byte, seen, now + WAIT_SLICE_NS < deadline ? now + WAIT_SLICE_NS : deadline);
    if (pf_exit_begun()) {
      pf_exit_check();
    }
  }
}

/* --- opening ---------------------------------------------------------------------------------------------------------- */

static pf_why_t open_pages(pf_region_t *region, uint64_t page, uint32_t count, const uint8_t *from, bool writable) {
  int err = pf_back_open(region, page, count, from, writable);
  switch (err) {
    case 0:
      return (pf_why_t){0};
    case -ENOMEM:
    case -EAGAIN:
    case -EEXIST: /* something populated a page that is not PRESENT: it was dropped, so trying again helps */
      return (pf_why_t){.code = PF_E_NO_MEMORY, .err = -err};
    default:
      return (pf_why_t){.code = PF_E_SYSTEM, .err = -err};
  }
}

/* INSTALLING → LOADING, for an owner that did not open them after all. */
static void end_install(pf_region_t *region, uint64_t page, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    move_on(region, page + i, PF_LOADING);
  }
}

/* Open pages become PRESENT. From here on anybody may evict them. */
static void publish(pf_region_t *region, uint64_t page, uint32_t count) {
  atomic_fetch_add(&region->counters.resident, (uint64_t)count << region->page_shift);
  uint64_t fresh[PF_BATCH_MAX];
  uint32_t fresh_count = 0;
  unsigned next = PF_PRESENT | (region->budget != NULL ? PF_QUEUED : 0);
  for (uint32_t i = 0; i < count; i++) {
    if (!(move_on(region, page + i, next) & PF_QUEUED)) {
      fresh[fresh_count++] = page + i;
    }
  }
  if (region->budget != NULL && fresh_count > 0) {
    pf_budget_enqueue(region, fresh, fresh_count);
  }
}

/* New bytes from the store are clean; a page that is opened for the write that brought it is not. */
static void mark_installed(pf_region_t *region, uint64_t page, uint32_t count, bool writable) {
  for (uint32_t i = 0; region->marks != NULL && i < count; i++) {
    bool faults = writable && pf_track_of(region, page + i) == PF_TRACK_FAULT;
    uint8_t marks = faults ? PF_M_DIRTY | PF_M_WRITABLE : 0, before = atomic_load(&region->marks[page + i]);
    while (!atomic_compare_exchange_weak(&region->marks[page + i], &before, (uint8_t)((before & ~PF_M_OF_MEMORY) | marks | (before & PF_M_LOST ? PF_M_DIRTY : 0)))) {
    }
  }
}

pf_why_t pf_pages_install(pf_region_t *region, uint64_t page, uint32_t count, const uint8_t *from, bool write, bool *again) {
  begin_install(region, page, count, again);
  if (*again) {
    return (pf_why_t){0};
  }
  bool writable = write && region->writable && !region->on_write;
  mark_installed(region, page, count, writable);
  pf_why_t why = open_pages(region, page, count, from, writable);
  if (why.err == ESTALE) { /* another process fills this page of shared memory, after all */
    mark_installed(region, page, count, false);
    end_install(region, page, count);
    *again = true;
    return (pf_why_t){0};
  }
  if (why.code != PF_OK) {
    if (region->backend != PF_BACKEND_SIGNAL && !pf_is_patched(region, page)) {
      pf_mem_punch(region->ours + (page << region->page_shift), (size_t)count << region->page_shift); /* nobody may find it there later */
    }
    mark_installed(region, page, count, false);
    end_install(region, page, count);
    return why;
  }
  publish(region, page, count);
  if (region->source.kind == PF_SOURCE_PAGER) { /* this may be its thread, and it is a long way by the thread that asked for it */
    pf_pages_wake(region, page, count);
  }
  return why;
}

/* --- taking back what was staged ------------------------------------------------------------------------------------------ */

/* LOADING → INSTALLING. False: its bytes are not wanted any more. An invalidated page that is dirty keeps them: only discarding loses a write. */
static bool begin_steal(pf_region_t *region, uint64_t page, bool dirty) {
  bool stale;
  begin_install(region, page, 1, &stale);
  while (stale && dirty && !(pf_marks(region, page) & PF_M_DISCARD)) {
    begin_install(region, page, 1, &stale);
  }
  return !stale;
}

static bool reopen_staged(pf_region_t *region, uint64_t page) {
  if ((pf_marks(region, page) & PF_M_DIRTY) && pf_track_of(region, page) == PF_TRACK_ASYNC) { /* what is moved counts as written */
    return pf_back_restore(region, page) == 0 || open_pages(region, page, 1, pf_ours(region, page), true).code == PF_OK;
  }
  return open_pages(region, page, 1, pf_ours(region, page), (pf_marks(region, page) & PF_M_WRITABLE) != 0).code == PF_OK;
}

bool pf_page_steal(pf_region_t *region, uint64_t page) {
  uint64_t one = page;
  bool dirty = (pf_marks(region, page) & (PF_M_DIRTY | PF_M_STICKY)) != 0;
  bool wanted = begin_steal(region, page, dirty);
  bool open = wanted && reopen_staged(region, page);
  if (wanted && !open && dirty) {
    pf_page_settle(region, page, PF_EVICTING);
    pf_pages_keep_staged(region, &one, 1); /* counted as staged all the time */
    return false;
  }
  if (!open || pf_kind(region, page) == PF_BACKEND_SIGNAL) {
    pf_pages_forget(region, &one, 1); /* while the page is ours: once it is PRESENT it may be staged again, here */
  }
  pf_budget_staged(region, -(int64_t)pf_page_size(region));
  if (open) {
    atomic_fetch_add(&region->counters.steals, 1);
    publish(region, page, 1);
    return true;
  }
  if (wanted) {
    end_install(region, page, 1);
  }
  pf_unmark(region, page, PF_M_OF_MEMORY);
  pf_pages_unclaim(region, page, 1);
  return false;
}

/* --- failed pages that were opened all the same ---------------------------------------------------------------------------- */

/* FAILED | ZEROED: it may have been closed when the kernel's mappings ran out. */
static bool reopen_zeroed(pf_region_t *region, uint64_t page) {
  return pf_back_reopen(region, page) == 0;
}

bool pf_page_zero_failed(pf_region_t *region, uint64_t page) {
  if (pf_is_patched(region, page)) {
    return false; /* zeroes would be seen by all who share it */
  }
  uint8_t seen = atomic_load(&region->states[page]);
  do {
    if ((seen & PF_STATE) != PF_FAILED) {
      return true; /* somebody is at it: the instruction looks again */
    }
    if (seen & PF_ZEROED) {
      return reopen_zeroed(region, page);
    }
  } while (!atomic_compare_exchange_weak(&region->states[page], &seen, (uint8_t)((seen & ~PF_STATE) | PF_INSTALLING)));
  pf_block_enter(region, page);
  pf_page_unbar(region, page);
  if (region->backend != PF_BACKEND_SIGNAL) {
    pf_mem_punch(region->ours + (page << region->page_shift), pf_page_size(region));
  }
  pf_why_t why = open_pages(region, page, 1, NULL, region->writable);
  move_on(region, page, PF_FAILED | (why.code == PF_OK ? PF_ZEROED : 0));
  return why.code == PF_OK;
}

/* --- present, and yet a fault ---------------------------------------------------------------------------------------------- */

/* The page is ours, and no page any more: the next touch loads it. */
static void forget_open(pf_region_t *region, uint64_t page) {
  pf_unmark(region, page, PF_M_OF_MEMORY);
  atomic_fetch_sub(&region->counters.resident, pf_page_size(region));
  pf_budget_uncharge(region, 1);
  move_on(region, page, PF_ABSENT);
}

bool pf_page_reopen(pf_region_t *region, uint64_t page, const pf_wait_t *wait, pf_why_t *why) {
  while (atomic_load(&region->phase) == PF_PHASE_OPEN && pf_page_own(region, page)) {
    /* Only now that it is ours: a moment ago it may have been on its way out and in again. mprotect, memfd: closed by a collapse, or open by now; opening it twice is
     * harmless. */
    uint64_t one = page;
    bool dirty = (pf_marks(region, page) & (PF_M_DIRTY | PF_M_STICKY)) != 0, signal = pf_kind(region, page) == PF_BACKEND_SIGNAL;
    int err = signal ? 0 : pf_back_reopen(region, page);
    bool there = signal ? pf_own_uffd_holds(pf_page_address(region, page), pf_page_size(region)) != 0 : err == 0 || dirty;
    if (!there) {
      /* Somebody dropped the memory behind our back (madvise), or it cannot be opened. */
      pf_page_settle(region, page, PF_EVICTING | (atomic_load(&region->states[page]) & PF_STALE));
      there = !pf_pages_drop(region, &one, 1);
    }
    if (!there) {
      forget_open(region, page);
      return true;
    }
    pf_pages_return(region, &one, 1);
    if (err == 0 || !dirty) {
      return true;
    }
    if (pf_now_ns() >= wait->deadline_ns) { /* it cannot be opened now, and must not be forgotten */
      *why = (pf_why_t){.code = PF_E_NO_MEMORY, .err = -err};
      return false;
    }
    pf_about_to_block();
    pf_sleep_until(pf_now_ns() + 1000000ULL);
  }
  return true;
}
