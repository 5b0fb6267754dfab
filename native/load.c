/*
 * Loading: from the first touch of a page to its being PRESENT. Runs on the thread that needs the page, in its signal handler or
 * called by a checked operation; pages of JavaScript stores are asked of their pager and waited for.
 *
 * One store read may bring several pages: the one that is needed and, where a reader goes through the pages in order, those behind
 * it. Pages read ahead never fail: what cannot be had is given back and asked for again when it is touched.
 */
#include "engine.h"

#include <string.h>

#define BACKOFF_FIRST_NS 1000000ULL
#define BACKOFF_MAX_NS 250000000ULL
#define SKIP_MAX 256 /* pages already there that a sequential reader may run over without losing its stream */

static uint8_t *ours_of(const pf_region_t *region, uint64_t page) { return region->ours + (page << region->page_shift); }

static bool claim(pf_region_t *region, uint64_t page, uint8_t seen, unsigned drop_bits) {
  unsigned before = seen & PF_STATE;
  uint8_t next = (uint8_t)((seen & ~(PF_STATE | drop_bits)) | PF_LOADING);
  if (!atomic_compare_exchange_strong(&region->states[page], &seen, next)) {
    return false;
  }
  if (before != PF_STAGED) {
    pf_block_enter(region, page);
  }
  return true;
}

/* --- read-ahead ------------------------------------------------------------------------------------------------------- */

typedef struct {
  uint32_t window; /* pages to load now */
  uint32_t slot;   /* of the stream, PF_STREAMS: none */
} plan_t;

/* The miss of a sequential reader lies where its last load ended: then the window grows fourfold. */
static plan_t plan_load(pf_region_t *region, uint64_t page, const pf_wait_t *wait) {
  if (wait->window != 0) {
    return (plan_t){.window = wait->window, .slot = PF_STREAMS};
  }
  if (region->readahead_pages >= 0) {
    return (plan_t){.window = 1 + (uint32_t)region->readahead_pages, .slot = PF_STREAMS};
  }
  for (uint32_t slot = 0; slot < PF_STREAMS; slot++) {
    uint64_t stream = atomic_load_explicit(&region->streams[slot], memory_order_relaxed);
    uint32_t last = stream & 0xffff;
    if (stream >> 16 != page) {
      continue;
    }
    if (last > 1) {
      atomic_fetch_add_explicit(&region->counters.readahead_hits, last - 1, memory_order_relaxed);
    }
    uint32_t window = last * 4 < region->window_max ? last * 4 : region->window_max;
    return (plan_t){.window = window, .slot = slot};
  }
  uint32_t slot = atomic_fetch_add_explicit(&region->stream_clock, 1, memory_order_relaxed) % PF_STREAMS;
  return (plan_t){.window = 1, .slot = slot};
}

static void note_stream(pf_region_t *region, const plan_t *plan, uint64_t page, uint32_t loaded) {
  if (plan->slot == PF_STREAMS) {
    return;
  }
  uint64_t next = page + loaded;
  for (uint32_t skipped = 0; skipped < SKIP_MAX && next < region->page_count; skipped++, next++) {
    if ((atomic_load_explicit(&region->states[next], memory_order_relaxed) & PF_STATE) != PF_PRESENT) {
      break;
    }
  }
  atomic_store_explicit(&region->streams[plan->slot], next << 16 | loaded, memory_order_relaxed);
}

/* Moves pages behind an owned one to LOADING while they are ABSENT; the run's length, the first included. */
static uint32_t claim_run(pf_region_t *region, uint64_t page, uint32_t want) {
  uint64_t room = region->page_count - page;
  uint32_t count = 1;
  while (count < want && count < room) {
    uint8_t seen = atomic_load_explicit(&region->states[page + count], memory_order_relaxed);
    if ((seen & PF_STATE) != PF_ABSENT || !claim(region, page + count, seen, 0)) {
      break;
    }
    count++;
  }
  return count;
}

/* The state table itself is memory: each system page of it counts once it is in use. */
static void charge_table(pf_region_t *region, uint64_t page) {
  if (region->table_pages == NULL) {
    return;
  }
  uint64_t table_page = page / pf_os_page_size();
  _Atomic uint8_t *bits = &region->table_pages[table_page / 8];
  uint8_t bit = (uint8_t)(1u << (table_page % 8));
  if (!(atomic_load_explicit(bits, memory_order_relaxed) & bit) && !(atomic_fetch_or(bits, bit) & bit)) {
    pf_budget_overhead(region->budget, (int64_t)pf_os_page_size());
  }
}

/* Charges a claimed run; what does not fit is given back from its end. 0: nothing fits, all given back. */
static uint32_t charge_run(pf_region_t *region, uint64_t page, uint32_t count, pf_wait_t *wait, pf_why_t *why) {
  if (region->budget == NULL) {
    return count;
  }
  charge_table(region, page);
  uint32_t charged = pf_budget_charge(region, count, wait, why);
  for (uint32_t i = charged; i < count; i++) {
    pf_page_settle(region, page + i, PF_ABSENT);
  }
  return charged;
}

/* --- stores served in C -------------------------------------------------------------------------------------------------- */

static bool read_pages(pf_region_t *region, uint64_t page, uint32_t count, uint8_t *into, pf_why_t *why, bool *permanent) {
  uint64_t offset = page << region->page_shift;
  size_t len = (size_t)count << region->page_shift;
  size_t have = region->store_length <= offset ? 0 : region->store_length - offset < len ? (size_t)(region->store_length - offset) : len;
  if (have > 0) {
    atomic_fetch_add_explicit(&region->counters.store_reads, 1, memory_order_relaxed);
    if (!pf_source_read(&region->source, offset, into, have, why, permanent)) {
      return false;
    }
    atomic_fetch_add_explicit(&region->counters.bytes_read, have, memory_order_relaxed);
  }
  if (have < len) { /* glibc's memset of nothing can be slow at an address that is not mapped */
    memset(into + have, 0, len - have);
  }
  return true;
}

static bool reads_zero(const pf_region_t *region, uint64_t page) {
  return region->source.kind == PF_SOURCE_ZERO || page << region->page_shift >= region->store_length;
}

/* Reads and opens. *again: nothing is wrong, but it went stale. */
static bool fill(pf_region_t *region, uint64_t page, uint32_t count, pf_why_t *why, bool *permanent, bool *again) {
  *permanent = false;
  *again = false;
  if (reads_zero(region, page)) {
    *why = pf_pages_install(region, page, count, NULL, again);
    return why->code == PF_OK;
  }
  if (region->backend == PF_BACKEND_MPROTECT) {
    uint8_t *into = ours_of(region, page);
    if (read_pages(region, page, count, into, why, permanent)) {
      *why = pf_pages_install(region, page, count, into, again);
    }
    if (why->code != PF_OK || *again) { /* half a page must not be found here later, nor stay in memory uncounted */
      pf_mem_punch(into, (size_t)count << region->page_shift);
    }
    return why->code == PF_OK;
  }
  pf_scratch_t scratch;
  if (pf_scratch_take((size_t)count << region->page_shift, &scratch) != 0) {
    *why = (pf_why_t){.code = PF_E_NO_MEMORY};
    return false;
  }
  if (read_pages(region, page, count, scratch.bytes, why, permanent)) {
    *why = pf_pages_install(region, page, count, scratch.bytes, again);
    *permanent = why->code == PF_E_SYSTEM;
  }
  pf_scratch_give(&scratch);
  return why->code == PF_OK;
}

static bool must_stop(pf_region_t *region, const pf_wait_t *wait, pf_why_t *why) {
  if (atomic_load(&region->phase) != PF_PHASE_OPEN) {
    *why = (pf_why_t){.code = PF_E_CLOSED};
    return true;
  }
  if (wait->cancel != NULL && atomic_load(wait->cancel) != 0) {
    *why = (pf_why_t){.code = PF_E_ABORTED};
    return true;
  }
  return false;
}

static void note_load(pf_region_t *region, uint32_t count, uint64_t started) {
  pf_note_load_cost(region, (pf_now_ns() - started) / count);
  atomic_fetch_add_explicit(&region->counters.loads, count, memory_order_relaxed);
  if (count > 1) {
    atomic_fetch_add_explicit(&region->counters.readahead_pages, count - 1, memory_order_relaxed);
  }
}

/* The page is LOADING and ours. True: it is PRESENT. False: it is FAILED, or ABSENT where the reason is not the store's. */
static bool load_here(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why) {
  plan_t plan = plan_load(region, page, wait);
  uint32_t count = charge_run(region, page, claim_run(region, page, plan.window), wait, why);
  if (count == 0) {
    return false;
  }
  uint64_t started = pf_now_ns();
  for (uint64_t backoff = BACKOFF_FIRST_NS;;) {
    bool permanent, again;
    if (fill(region, page, count, why, &permanent, &again) && !again) {
      break;
    }
    if (count > 1) {
      pf_pages_unclaim(region, page + 1, count - 1);
      count = 1;
      continue;
    }
    pf_why_t stop;
    if (must_stop(region, wait, &stop)) {
      *why = stop;
      pf_pages_unclaim(region, page, 1);
      return false;
    }
    if (again) {
      continue;
    }
    uint64_t now = pf_now_ns();
    if (permanent || now >= wait->deadline_ns) {
      pf_page_fail(region, page, *why, NULL, NULL);
      return false;
    }
    atomic_fetch_add_explicit(&region->counters.retries, 1, memory_order_relaxed);
    pf_sleep_until(now + backoff < wait->deadline_ns ? now + backoff : wait->deadline_ns);
    backoff = backoff * 2 < BACKOFF_MAX_NS ? backoff * 2 : BACKOFF_MAX_NS;
    if (pf_exit_begun()) {
      pf_exit_check();
    }
  }
  note_load(region, count, started);
  note_stream(region, &plan, page, count);
  return true;
}

/* --- stores in JavaScript -------------------------------------------------------------------------------------------------- */

/* Zeroes need no store: a page wholly behind its end. */
static bool load_zero(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why) {
  bool again;
  for (;;) {
    *why = pf_pages_install(region, page, 1, NULL, &again);
    if (!again && (why->code != PF_E_NO_MEMORY || pf_now_ns() >= wait->deadline_ns)) {
      break;
    }
    if (!again) {
      pf_sleep_until(pf_now_ns() + BACKOFF_FIRST_NS);
    }
  }
  if (why->code != PF_OK) {
    pf_pages_unclaim(region, page, 1);
    return false;
  }
  atomic_fetch_add_explicit(&region->counters.loads, 1, memory_order_relaxed);
  return true;
}

static void ask_ahead(pf_region_t *region, uint64_t page, uint32_t window, pf_wait_t *wait) {
  pf_wait_t no_wait = {.deadline_ns = 0, .background = wait->background};
  for (uint32_t i = 1; i < window && page + i < region->page_count && !reads_zero(region, page + i); i++) {
    uint8_t seen = atomic_load_explicit(&region->states[page + i], memory_order_relaxed);
    pf_why_t why;
    if ((seen & PF_STATE) != PF_ABSENT || !claim(region, page + i, seen, 0)) {
      return;
    }
    if (charge_run(region, page + i, 1, &no_wait, &why) == 0) {
      return;
    }
    if (!pf_pager_ask_ahead(region, page + i)) {
      pf_pages_unclaim(region, page + i, 1);
      return;
    }
  }
}

/* The page is LOADING and ours. True: it was asked for (or is there): wait for it. */
static bool load_by_pager(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why) {
  if (charge_run(region, page, 1, wait, why) == 0) {
    return false;
  }
  if (reads_zero(region, page)) {
    return load_zero(region, page, wait, why);
  }
  plan_t plan = plan_load(region, page, wait);
  if (!pf_pager_ask(region, page, 0, wait, why)) {
    if (why->code == PF_E_GONE || why->code == PF_E_TIMEOUT) {
      pf_page_fail(region, page, *why, why->code == PF_E_GONE ? pf_pager_reason(region->source.pager) : NULL, NULL);
    } else {
      pf_pages_unclaim(region, page, 1);
    }
    return false;
  }
  if (plan.window > 1) {
    ask_ahead(region, page, plan.window, wait);
  }
  if (plan.slot != PF_STREAMS) {
    uint64_t next = page + plan.window < region->page_count ? page + plan.window : region->page_count;
    atomic_store_explicit(&region->streams[plan.slot], next << 16 | plan.window, memory_order_relaxed);
  }
  return true;
}

/* --- every page ------------------------------------------------------------------------------------------------------------- */

/* A failed page is LOADING and ours: what it was opened with goes. */
static bool unfail(pf_region_t *region, uint64_t page, uint8_t was) {
  uint64_t one = page;
  if ((was & PF_ZEROED) && !pf_pages_drop(region, &one, 1)) {
    pf_page_settle(region, page, PF_FAILED | PF_ZEROED); /* still open: it cannot be filled under its readers */
    return false;
  }
  atomic_fetch_sub(&region->counters.failed_pages, 1);
  return true;
}

static bool load_claimed(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why) {
  int stopped = wait->background ? 0 : 1; /* in the middle of an instruction, or of a copy */
  pf_budget_crowd(region, stopped);
  bool loaded = region->source.kind == PF_SOURCE_PAGER ? load_by_pager(region, page, wait, why) : load_here(region, page, wait, why);
  pf_budget_crowd(region, -stopped);
  return loaded;
}

static void why_failed(pf_region_t *region, uint64_t page, pf_why_t *why) {
  if (!pf_failure_why(atomic_load(&region->id), page << region->page_shift, why)) {
    *why = (pf_why_t){.code = PF_E_STORE};
  }
}

bool pf_page_ensure(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why) {
  bool heal = wait->heal;
  for (;;) {
    uint8_t seen = atomic_load(&region->states[page]);
    unsigned state = seen & PF_STATE;
    *why = (pf_why_t){0};
    if (must_stop(region, wait, why)) {
      return false;
    }
    if (state == PF_PRESENT) {
      return true;
    }
    if (state == PF_FAILED && !heal) {
      why_failed(region, page, why);
      return false;
    }
    if (state == PF_ABSENT || state == PF_FAILED) {
      if (region->source.kind == PF_SOURCE_PAGER && pf_pager_is_me(region->source.pager)) {
        *why = (pf_why_t){.code = PF_E_DEADLOCK};
        return false;
      }
      if (!claim(region, page, seen, PF_ZEROED)) {
        continue;
      }
      heal = false;
      if (state == PF_FAILED && !unfail(region, page, seen)) {
        *why = (pf_why_t){.code = PF_E_NO_MEMORY};
        return false;
      }
      if (!load_claimed(region, page, wait, why)) {
        return false;
      }
      if (region->source.kind != PF_SOURCE_PAGER) {
        return true; /* even if it was evicted since: whoever needs it now faults again */
      }
    } else if (state == PF_STAGED) {
      if (claim(region, page, seen, 0) && pf_page_steal(region, page)) {
        return true;
      }
    } else if (!pf_page_wait(region, page, wait, why)) {
      return false;
    }
  }
}

bool pf_region_copy_out(pf_region_t *region, uint64_t offset, uint8_t *into, size_t len, uint64_t *failed_page, pf_why_t *why) {
  size_t done = 0;
  while (done < len) {
    uint64_t page = (offset + done) >> region->page_shift;
    size_t within = (size_t)((offset + done) & (pf_page_size(region) - 1));
    size_t part = pf_page_size(region) - within < len - done ? pf_page_size(region) - within : len - done;
    pf_wait_t wait = {.deadline_ns = pf_now_ns() + region->timeout_ns};
    *failed_page = page;
    if (pf_page_hold(region, page) != 0) {
      *why = (pf_why_t){.code = PF_E_NO_MEMORY};
      return false;
    }
    bool there = pf_page_ensure(region, page, &wait, why);
    if (there) {
      memcpy(into + done, region->base + offset + done, part);
    }
    pf_page_unhold(region, page);
    if (!there) {
      return false;
    }
    done += part;
  }
  return true;
}
