/*
 * One page and its state byte: moving it on, waiting for it, opening it, dropping it. These are the arrows of the drawing in engine.h.
 * Any thread, in the signal handler too; no lock but the budget's is taken, and none is held while the kernel is called.
 */
#include "engine.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define WAIT_SLICE_NS 50000000ULL /* how late a waiter may notice that its segment was closed or the process exits */

static uint8_t *address_of(const pf_region_t *region, uint64_t page) { return region->base + (page << region->page_shift); }
static uint8_t *ours_of(const pf_region_t *region, uint64_t page) { return region->ours + (page << region->page_shift); }

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

void pf_pages_unclaim(pf_region_t *region, uint64_t page, uint32_t count) {
  pf_budget_uncharge(region, count);
  for (uint32_t i = 0; i < count; i++) {
    move_on(region, page + i, PF_ABSENT);
  }
}

void pf_page_fail(pf_region_t *region, uint64_t page, pf_why_t why, const char *message, const char *cause) {
  pf_failure_record(region, page, why, message, cause);
  pf_budget_uncharge(region, 1);
  atomic_fetch_add(&region->counters.failures, 1);
  atomic_fetch_add(&region->counters.failed_pages, 1);
  move_on(region, page, PF_FAILED);
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

bool pf_page_wait(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why) {
  pf_state_t *byte = &region->states[page];
  bool pager = region->source.kind == PF_SOURCE_PAGER;
  uint64_t deadline = wait->deadline_ns + (pager ? PF_PAGER_GRACE_NS : 0);
  atomic_fetch_add_explicit(&region->counters.waits, 1, memory_order_relaxed);
  for (;;) {
    uint8_t seen = atomic_load(byte);
    unsigned state = seen & PF_STATE;
    if (state != PF_LOADING && state != PF_INSTALLING && state != PF_EVICTING) {
      return true;
    }
    *why = (pf_why_t){0};
    if (atomic_load(&region->phase) != PF_PHASE_OPEN) {
      why->code = PF_E_CLOSED;
    } else if (wait->cancel != NULL && atomic_load(wait->cancel) != 0) {
      why->code = PF_E_ABORTED;
    } else if (pager && state == PF_LOADING && pf_pager_is_me(region->source.pager)) {
      why->code = PF_E_DEADLOCK;
    }
    if (why->code != PF_OK) {
      return false;
    }
    uint64_t now = pf_now_ns();
    if (now >= deadline) {
      if (!give_up(region, page, why)) {
        return false;
      }
      continue;
    }
    sleep_on(byte, seen, now + WAIT_SLICE_NS < deadline ? now + WAIT_SLICE_NS : deadline);
    if (pf_exit_begun()) {
      pf_exit_check();
    }
  }
}

/* --- the kernel's limit on mappings (mprotect) ------------------------------------------------------------------------ */

static pf_lock_t collapse_lock;

/* Closes what is open of a region, except pinned pages, so that it is few mappings again. The states stay: a page that is PRESENT and
 * closed is opened again by the next touch (pf_page_reopen), for the price of one fault and no read. */
static void collapse_region(pf_region_t *region) {
  if (region->backend != PF_BACKEND_MPROTECT || atomic_load(&region->phase) != PF_PHASE_OPEN) {
    return;
  }
  atomic_fetch_add(&region->counters.collapses, 1);
  if (atomic_load(&region->counters.pinned_pages) == 0 && region->pins == NULL) {
    pf_mem_protect(region->base, region->length, PROT_NONE);
    return;
  }
  uint64_t start = 0;
  for (uint64_t page = 0; page <= region->page_count; page++) {
    bool pinned = page < region->page_count && (atomic_load(&region->states[page]) & PF_PINNED);
    if (pinned || page == region->page_count) {
      if (page > start) {
        pf_mem_protect(address_of(region, start), (size_t)(page - start) << region->page_shift, PROT_NONE);
      }
      start = page + 1;
    }
  }
}

static int protect_or_collapse(pf_region_t *region, uint8_t *addr, size_t len, int prot) {
  int err = pf_mem_protect(addr, len, prot);
  if (err != -ENOMEM) {
    return err;
  }
  pf_lock(&collapse_lock);
  err = pf_mem_protect(addr, len, prot); /* somebody else may have made room meanwhile */
  if (err == -ENOMEM) {
    collapse_region(region);
    err = pf_mem_protect(addr, len, prot);
  }
  if (err == -ENOMEM) {
    for (pf_region_t *other = pf_region_next(0); other != NULL;) {
      if (other != region) {
        collapse_region(other);
      }
      uintptr_t end = (uintptr_t)other->base + other->length;
      pf_region_leave(other);
      other = pf_region_next(end);
    }
    err = pf_mem_protect(addr, len, prot);
  }
  pf_unlock(&collapse_lock);
  return err;
}

/* --- opening ---------------------------------------------------------------------------------------------------------- */

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

static pf_why_t open_pages(pf_region_t *region, uint64_t page, uint32_t count, const uint8_t *from) {
  uint8_t *addr = address_of(region, page);
  size_t len = (size_t)count << region->page_shift;
  int err;
  if (region->backend == PF_BACKEND_MPROTECT) {
    if (from != NULL && from != ours_of(region, page)) {
      memcpy(ours_of(region, page), from, len);
    }
    err = protect_or_collapse(region, addr, len, PROT_READ);
    if (err != 0) {
      pf_mem_punch(ours_of(region, page), len); /* nobody may find it there later */
    }
  } else {
    size_t done;
    err = from == NULL ? pf_own_uffd_zero(addr, len, &done) : pf_own_uffd_copy(addr, from, len, &done);
    if (err != 0) {
      pf_mem_drop(addr, len); /* whatever was opened: these pages are still ours to load */
    }
  }
  switch (err) {
    case 0:
      return (pf_why_t){0};
    case -ENOMEM:
    case -EAGAIN:
    case -EEXIST: /* something populated a page that is not PRESENT: it was dropped above, so trying again helps */
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

pf_why_t pf_pages_install(pf_region_t *region, uint64_t page, uint32_t count, const uint8_t *from, bool *again) {
  begin_install(region, page, count, again);
  pf_why_t why = *again ? (pf_why_t){0} : open_pages(region, page, count, from);
  if (why.code != PF_OK) {
    end_install(region, page, count);
  } else if (!*again) {
    publish(region, page, count);
  }
  return why;
}

bool pf_page_steal(pf_region_t *region, uint64_t page) {
  bool stale;
  uint64_t one = page;
  begin_install(region, page, 1, &stale);
  bool open = !stale && open_pages(region, page, 1, ours_of(region, page)).code == PF_OK;
  if (!open || region->backend == PF_BACKEND_SIGNAL) {
    pf_pages_forget(region, &one, 1); /* while the page is ours: once it is PRESENT it may be staged again, here */
  }
  pf_budget_staged(region, -(int64_t)pf_page_size(region));
  if (open) {
    atomic_fetch_add(&region->counters.steals, 1);
    publish(region, page, 1);
    return true;
  }
  if (!stale) {
    end_install(region, page, 1);
  }
  pf_pages_unclaim(region, page, 1);
  return false;
}

/* FAILED | ZEROED: it may have been closed when the kernel's mappings ran out. */
static bool reopen_zeroed(pf_region_t *region, uint64_t page) {
  return region->backend == PF_BACKEND_SIGNAL ||
         protect_or_collapse(region, address_of(region, page), pf_page_size(region), PROT_READ) == 0;
}

bool pf_page_zero_failed(pf_region_t *region, uint64_t page) {
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
  if (region->backend == PF_BACKEND_MPROTECT) {
    pf_mem_punch(ours_of(region, page), pf_page_size(region));
  }
  pf_why_t why = open_pages(region, page, 1, NULL);
  move_on(region, page, PF_FAILED | (why.code == PF_OK ? PF_ZEROED : 0));
  return why.code == PF_OK;
}

/* --- dropping ---------------------------------------------------------------------------------------------------------- */

/* qsort may allocate; victims come almost sorted. */
static void sort_pages(uint64_t *pages, uint32_t count) {
  for (uint32_t i = 1; i < count; i++) {
    uint64_t page = pages[i];
    uint32_t at = i;
    for (; at > 0 && pages[at - 1] > page; at--) {
      pages[at] = pages[at - 1];
    }
    pages[at] = page;
  }
}

/* Sorts the pages and merges neighbours into spans at `base`. */
static size_t merge(const pf_region_t *region, uint8_t *base, uint64_t *pages, uint32_t count, pf_span_t spans[PF_BATCH_MAX]) {
  size_t runs = 0;
  sort_pages(pages, count);
  for (uint32_t i = 0; i < count; i++) {
    uint8_t *addr = base + (pages[i] << region->page_shift);
    if (runs > 0 && spans[runs - 1].addr + spans[runs - 1].len == addr) {
      spans[runs - 1].len += pf_page_size(region);
    } else {
      spans[runs++] = (pf_span_t){.addr = addr, .len = pf_page_size(region)};
    }
  }
  return runs;
}

/* mprotect: all of them inaccessible, or none. */
static bool close_spans(pf_region_t *region, const pf_span_t *spans, size_t runs) {
  for (size_t i = 0; i < runs; i++) {
    if (protect_or_collapse(region, spans[i].addr, spans[i].len, PROT_NONE) != 0) {
      for (size_t undo = 0; undo < i; undo++) {
        pf_mem_protect(spans[undo].addr, spans[undo].len, PROT_READ);
      }
      return false;
    }
  }
  return true;
}

static void punch_spans(pf_region_t *region, const pf_span_t *spans, size_t runs) {
  for (size_t i = 0; i < runs; i++) {
    pf_mem_punch(region->ours + (spans[i].addr - region->base), spans[i].len);
  }
}

bool pf_pages_drop(pf_region_t *region, uint64_t *pages, uint32_t count) {
  pf_span_t spans[PF_BATCH_MAX];
  size_t runs = merge(region, region->base, pages, count, spans);
  if (region->backend == PF_BACKEND_SIGNAL) {
    return runs == 0 || pf_mem_drop_many(spans, runs) == 0;
  }
  if (!close_spans(region, spans, runs)) {
    return false;
  }
  punch_spans(region, spans, runs);
  return true;
}

/* signal: where staged pages are kept, made by the first thread that stages. */
static bool make_staging(pf_region_t *region) {
  if (atomic_load(&region->ours) != NULL) {
    return true;
  }
  void *made;
  if (pf_mem_reserve(region->length, "pagefault staged", &made) != 0) {
    return false;
  }
  uint8_t *none = NULL;
  if (!atomic_compare_exchange_strong(&region->ours, &none, made)) {
    pf_mem_unmap(made, region->length);
  }
  return true;
}

bool pf_pages_stage(pf_region_t *region, uint64_t *pages, uint32_t count) {
  pf_span_t spans[PF_BATCH_MAX];
  size_t runs = merge(region, region->base, pages, count, spans);
  if (region->backend == PF_BACKEND_MPROTECT) {
    return close_spans(region, spans, runs);
  }
  if (!make_staging(region)) {
    return false;
  }
  /* A page that the kernel does not have at hand (a drop that failed half-way, swap) would fault here, and this thread would wait for itself. */
  for (size_t i = 0; i < runs; i++) {
    if (pf_mem_resident(spans[i].addr, spans[i].len) != 1) {
      return false;
    }
  }
  /* Nobody can write a read-only segment, so a copy is the page; MOVE refuses read-only mappings anyway. */
  for (size_t i = 0; i < runs; i++) {
    memcpy(region->ours + (spans[i].addr - region->base), spans[i].addr, spans[i].len);
  }
  bool dropped = pf_mem_drop_many(spans, runs) == 0;
  if (!dropped) {
    pf_pages_forget(region, pages, count); /* the copies */
  }
  return dropped;
}

void pf_pages_forget(pf_region_t *region, uint64_t *pages, uint32_t count) {
  pf_span_t spans[PF_BATCH_MAX];
  size_t runs = merge(region, region->backend == PF_BACKEND_MPROTECT ? region->base : region->ours, pages, count, spans);
  if (region->backend == PF_BACKEND_MPROTECT) {
    punch_spans(region, spans, runs);
  } else if (runs > 0) {
    pf_mem_drop_many(spans, runs);
  }
}

bool pf_pages_keep_open(pf_region_t *region, uint64_t first, uint64_t end) {
  if (region->backend != PF_BACKEND_MPROTECT) {
    return true;
  }
  /* Under the lock of the collapses: one that is under way may have looked before the pages were pinned, a later one sees the pins. */
  uint8_t *addr = address_of(region, first);
  size_t len = (size_t)(end - first) << region->page_shift;
  pf_lock(&collapse_lock);
  int err = pf_mem_protect(addr, len, PROT_READ);
  if (err == -ENOMEM) {
    collapse_region(region);
    err = pf_mem_protect(addr, len, PROT_READ);
  }
  pf_unlock(&collapse_lock);
  return err == 0;
}

void pf_page_reopen(pf_region_t *region, uint64_t page) {
  if (atomic_load(&region->phase) != PF_PHASE_OPEN) {
    return;
  }
  uint8_t seen = atomic_load(&region->states[page]);
  bool closed = region->backend == PF_BACKEND_MPROTECT /* by a collapse, or open by now: opening it twice is harmless */
                || pf_mem_resident(address_of(region, page), pf_page_size(region)) == 0;
  unsigned owned = region->backend == PF_BACKEND_MPROTECT ? PF_INSTALLING : PF_EVICTING;
  if (!closed || (seen & PF_STATE) != PF_PRESENT ||
      !atomic_compare_exchange_strong(&region->states[page], &seen, (uint8_t)((seen & ~PF_STATE) | owned))) {
    return;
  }
  if (owned == PF_INSTALLING) {
    int err = protect_or_collapse(region, address_of(region, page), pf_page_size(region), PROT_READ);
    if (err == 0) {
      move_on(region, page, PF_PRESENT | (seen & PF_STALE));
      return;
    }
    move_on(region, page, PF_EVICTING | (seen & PF_STALE));
  }
  /* Somebody dropped the memory behind our back (madvise), or it cannot be opened: forget the page, the next touch loads it. */
  uint64_t one = page;
  if (!pf_pages_drop(region, &one, 1)) {
    move_on(region, page, PF_PRESENT | (seen & PF_STALE));
    return;
  }
  atomic_fetch_sub(&region->counters.resident, pf_page_size(region));
  pf_budget_uncharge(region, 1);
  move_on(region, page, PF_ABSENT);
}
