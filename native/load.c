/*
 * Loading: from the first touch of a page to its being PRESENT. Runs on the thread that needs the page, in its signal handler or
 * called by a checked operation; pages of JavaScript stores are asked of their pager and waited for.
 *
 * One store read may bring several pages: the one that is needed and, where a reader goes through the pages in order, those behind
 * it. Pages read ahead never fail: what cannot be had is given back and asked for again when it is touched.
 */
#include "thread.h"
#include "touched.h"

#include <string.h>

#define BACKOFF_FIRST_NS 1000000ULL
#define BACKOFF_MAX_NS 250000000ULL
#define SKIP_MAX 256 /* pages already there that a sequential reader may run over without losing its stream */


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
  uint64_t next = page + loaded, reach = atomic_load_explicit(&region->reach, memory_order_relaxed);
  for (uint32_t skipped = 0; skipped < SKIP_MAX && next < reach; skipped++, next++) {
    if ((atomic_load_explicit(&region->states[next], memory_order_relaxed) & PF_STATE) != PF_PRESENT) {
      break;
    }
  }
  atomic_store_explicit(&region->streams[plan->slot], next << 16 | loaded, memory_order_relaxed);
}

/* A page that is ABSENT and is to be brought with others: not one that lies elsewhere. */
static bool claim_plain(pf_region_t *region, uint64_t page, uint8_t seen) {
  if (pf_is_patched(region, page) || !claim(region, page, seen, 0)) {
    return false;
  }
  if (pf_is_patched(region, page)) { /* only from here on can it not become so */
    pf_page_settle(region, page, PF_ABSENT);
    return false;
  }
  return true;
}

/* Moves pages behind an owned one to LOADING while they are ABSENT; the run's length, the first included. */
static uint32_t claim_run(pf_region_t *region, uint64_t page, uint32_t want) {
  uint64_t reach = atomic_load_explicit(&region->reach, memory_order_relaxed);
  uint64_t room = page < reach ? reach - page : 1;
  uint32_t count = 1;
  while (count < want && count < room) {
    uint8_t seen = atomic_load_explicit(&region->states[page + count], memory_order_relaxed);
    if ((seen & PF_STATE) != PF_ABSENT || !claim_plain(region, page + count, seen)) {
      break;
    }
    count++;
  }
  return count;
}

/* The same for pages that a pager is asked for in one read: the store has some of each. */
static uint32_t claim_to_ask(pf_region_t *region, uint64_t page, uint32_t want) {
  uint64_t left = page < region->store_pages ? region->store_pages - page : 1;
  want = want < region->ask_max ? want : region->ask_max;
  return claim_run(region, page, left < want ? (uint32_t)left : want);
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
    pf_budget_overhead(region->budget, (int64_t)pf_os_page_size() * (region->writable ? 2 : 1)); /* marks are a second table */
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

static bool read_pages(pf_region_t *region, uint64_t page, uint32_t count, uint8_t *into, const pf_wait_t *wait, pf_why_t *why, bool *permanent) {
  uint64_t offset = page << region->page_shift;
  size_t len = (size_t)count << region->page_shift;
  size_t have = region->store_length <= offset ? 0 : region->store_length - offset < len ? (size_t)(region->store_length - offset) : len;
  if (have > 0) {
    atomic_fetch_add_explicit(&region->counters.store_reads, 1, memory_order_relaxed);
    if (!pf_source_read(&region->source, offset, into, have, wait, why, permanent)) {
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
static bool fill(pf_region_t *region, uint64_t page, uint32_t count, const pf_wait_t *wait, pf_why_t *why, bool *permanent, bool *again) {
  bool write = wait->write && count == 1;
  *permanent = false;
  *again = false;
  if (reads_zero(region, page)) {
    *why = pf_pages_install(region, page, count, NULL, write, again);
    return why->code == PF_OK;
  }
  if (region->backend != PF_BACKEND_SIGNAL && !pf_is_patched(region, page)) {
    uint8_t *into = pf_ours(region, page);
    if (read_pages(region, page, count, into, wait, why, permanent)) {
      *why = pf_pages_install(region, page, count, into, write, again);
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
  if (read_pages(region, page, count, scratch.bytes, wait, why, permanent)) {
    *why = pf_pages_install(region, page, count, scratch.bytes, write, again);
    *permanent = why->code == PF_E_SYSTEM;
  }
  pf_scratch_give(&scratch);
  return why->code == PF_OK;
}

static void note_load(pf_region_t *region, uint32_t count, uint64_t started) {
  pf_note_load_cost(region, (pf_now_ns() - started) / count);
  atomic_fetch_add_explicit(&region->counters.loads, count, memory_order_relaxed);
  if (count > 1) {
    atomic_fetch_add_explicit(&region->counters.readahead_pages, count - 1, memory_order_relaxed);
  }
}

/* What was read ahead for a thread counts as touched: where it stopped cannot be seen. */
static void note_ahead(pf_region_t *region, uint64_t first, uint32_t count, const pf_wait_t *wait) {
  if (count > 0 && !wait->background) {
    pf_touched_note(region, first, count);
  }
}

/* A page of shared memory is LOADING and ours. *shown: it was filled by somebody, and is PRESENT; else it is ours to fill. False: it cannot be had, and is
 * ABSENT. */
static bool show_filled(pf_region_t *region, uint64_t page, const pf_wait_t *wait, pf_why_t *why, bool *shown) {
  for (uint64_t patience = pf_now_ns() + region->timeout_ns / 2;;) {
    bool again = false;
    pf_filling_t filling = pf_patch_claim(region, page, pf_now_ns() >= patience);
    *shown = false;
    *why = (pf_why_t){0};
    if (filling == PF_TO_FILL) {
      return true;
    }
    if (filling == PF_FILLED) {
      *why = pf_pages_install(region, page, 1, pf_ours(region, page), wait->write, &again);
      if (why->code == PF_OK && !again) {
        atomic_fetch_add_explicit(&region->counters.loads, 1, memory_order_relaxed);
        *shown = true;
        return true;
      }
    }
    bool late = pf_now_ns() >= wait->deadline_ns;
    if (pf_must_stop(region, wait, why) || (late && !again)) {
      if (why->code == PF_OK) {
        why->code = PF_E_TIMEOUT;
      }
      pf_pages_unclaim(region, page, 1);
      return false;
    }
    if (!again) {
      pf_note_doing(wait, PF_DOES_SHARE);
      pf_about_to_block();
      pf_sleep_until(pf_now_ns() + BACKOFF_FIRST_NS / 10);
    }
    if (pf_exit_begun()) {
      pf_exit_check();
    }
  }
}

/* One more page of shared memory, behind owned ones: LOADING and ours if it lies in the same object right behind them, and somebody filled it. */
static bool claim_filled(pf_region_t *region, uint64_t page) {
  uint8_t seen = atomic_load_explicit(&region->states[page], memory_order_relaxed);
  if ((seen & PF_STATE) != PF_ABSENT || !pf_patch_goes_on(region, page) || !claim(region, page, seen, 0)) {
    return false;
  }
  if (!pf_patch_goes_on(region, page)) { /* only from here on does it stay where it is */
    pf_page_settle(region, page, PF_ABSENT);
    return false;
  }
  return true;
}

/* A page of shared memory was shown. What lies behind it and is filled too is shown with it, as far as the reader's pattern goes: one call of the kernel for all
 * of them. Nobody waits for them: what does not work out is left for its own touch. */
static void show_ahead(pf_region_t *region, uint64_t page, const plan_t *plan, const pf_wait_t *wait) {
  pf_wait_t no_wait = {.deadline_ns = 0, .background = wait->background};
  uint64_t reach = atomic_load_explicit(&region->reach, memory_order_relaxed);
  uint32_t most = plan->window < PF_BATCH_MAX ? plan->window : PF_BATCH_MAX, count = 0;
  pf_why_t why;
  bool again = false;
  while (1 + count < most && page + 1 + count < reach && claim_filled(region, page + 1 + count)) {
    count++;
  }
  count = count == 0 ? 0 : charge_run(region, page + 1, count, &no_wait, &why);
  if (count > 0) {
    why = pf_pages_install(region, page + 1, count, pf_ours(region, page + 1), false, &again);
    if (why.code != PF_OK || again) {
      pf_pages_unclaim(region, page + 1, count);
      count = 0;
    }
  }
  atomic_fetch_add_explicit(&region->counters.loads, count, memory_order_relaxed);
  atomic_fetch_add_explicit(&region->counters.readahead_pages, count, memory_order_relaxed);
  note_ahead(region, page + 1, count, wait);
  note_stream(region, plan, page, 1 + count);
}

/* The page is LOADING and ours. True: it is PRESENT. False: it is FAILED, or ABSENT where the reason is not the store's. */
static bool load_here(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why) {
  plan_t plan = plan_load(region, page, wait);
  bool patched = pf_is_patched(region, page);
  uint32_t count = charge_run(region, page, patched ? 1 : claim_run(region, page, plan.window), wait, why);
  if (count == 0) {
    return false;
  }
  uint64_t started = pf_now_ns();
  for (uint64_t backoff = BACKOFF_FIRST_NS;;) {
    bool permanent, again, shown = false;
    if (patched && (!show_filled(region, page, wait, why, &shown) || shown)) { /* each time: another process may have taken it over */
      if (shown) {
        show_ahead(region, page, &plan, wait);
      }
      return shown;
    }
    pf_note_doing(wait, PF_DOES_READ);
    if (fill(region, page, count, wait, why, &permanent, &again) && !again) {
      break;
    }
    if (count > 1) {
      pf_pages_unclaim(region, page + 1, count - 1);
      count = 1;
      continue;
    }
    pf_why_t stop;
    if (pf_must_stop(region, wait, &stop)) {
      *why = stop;
      pf_pages_unclaim(region, page, 1);
      return false;
    }
    if (again) {
      continue;
    }
    uint64_t now = pf_now_ns();
    if (permanent || now >= wait->deadline_ns) {
      if (pf_page_fail(region, page, *why, NULL, NULL)) {
        return false;
      }
      continue;
    }
    atomic_fetch_add_explicit(&region->counters.retries, 1, memory_order_relaxed);
    pf_note_doing(wait, PF_DOES_RETRY);
    if (backoff == BACKOFF_FIRST_NS << 5) {
      pf_guard_kick();
    }
    pf_about_to_block();
    pf_sleep_until(now + backoff < wait->deadline_ns ? now + backoff : wait->deadline_ns);
    backoff = backoff * 2 < BACKOFF_MAX_NS ? backoff * 2 : BACKOFF_MAX_NS;
    if (pf_exit_begun()) {
      pf_exit_check();
    }
  }
  note_load(region, count, started);
  note_ahead(region, page + 1, count - 1, wait);
  note_stream(region, &plan, page, count);
  return true;
}

/* --- stores in JavaScript -------------------------------------------------------------------------------------------------- */

/* Zeroes need no store: a page wholly behind its end. */
static bool load_zero(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why) {
  bool again;
  for (;;) {
    *why = pf_pages_install(region, page, 1, NULL, wait->write, &again);
    bool late = pf_now_ns() >= wait->deadline_ns;
    if (again && late) {
      *why = (pf_why_t){.code = PF_E_TIMEOUT};
    }
    if (late || (!again && why->code != PF_E_NO_MEMORY)) {
      break;
    }
    pf_about_to_block();
    pf_sleep_until(pf_now_ns() + BACKOFF_FIRST_NS);
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
  uint64_t reach = atomic_load_explicit(&region->reach, memory_order_relaxed);
  for (uint32_t i = 1, count; i < window && page + i < reach && !reads_zero(region, page + i); i += count) {
    uint8_t seen = atomic_load_explicit(&region->states[page + i], memory_order_relaxed);
    pf_why_t why;
    if ((seen & PF_STATE) != PF_ABSENT || !claim_plain(region, page + i, seen)) {
      return;
    }
    count = charge_run(region, page + i, claim_to_ask(region, page + i, window - i), &no_wait, &why);
    if (count == 0) {
      return;
    }
    if (!pf_pager_ask_ahead(region, page + i, count)) {
      pf_pages_unclaim(region, page + i, count);
      return;
    }
    note_ahead(region, page + i, count, wait);
  }
}

/* A page that is LOADING, ours and charged, and nobody stopped for it: asked for with those behind it. If nothing comes of that the caller finds it ABSENT, and is
 * to ask for it alone. False: no slot is free, and it is still ours. */
static bool ask_together(pf_region_t *region, uint64_t page, pf_wait_t *wait) {
  pf_wait_t no_wait = {.deadline_ns = 0, .background = true};
  pf_why_t why;
  uint32_t window = wait->window, more = claim_to_ask(region, page, window) - 1;
  wait->window = 1;
  more = more == 0 ? 0 : charge_run(region, page + 1, more, &no_wait, &why);
  if (!pf_pager_ask_ahead(region, page, 1 + more)) {
    if (more > 0) {
      pf_pages_unclaim(region, page + 1, more);
    }
    return false;
  }
  if (1 + more < window) {
    ask_ahead(region, page + more, window - more, wait);
  }
  return true;
}

/* The page is LOADING and ours. True: it was asked for (or is there): wait for it. */
static bool load_by_pager(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why) {
  if (charge_run(region, page, 1, wait, why) == 0) {
    return false;
  }
  bool shown = false;
  if (pf_is_patched(region, page) && (!show_filled(region, page, wait, why, &shown) || shown)) {
    if (shown) {
      plan_t plan = plan_load(region, page, wait);
      show_ahead(region, page, &plan, wait);
    }
    return shown;
  }
  if (reads_zero(region, page)) {
    return load_zero(region, page, wait, why);
  }
  plan_t plan = plan_load(region, page, wait);
  bool alone = !wait->background || wait->write || wait->window < 2 || (!wait->ahead && region->ask_max == 1);
  pf_about_to_block();
  if (!alone && ask_together(region, page, wait)) {
    return true;
  }
  if (!pf_pager_ask(region, page, wait->write ? PF_ASK_READ_TO_WRITE : PF_ASK_READ, wait, why)) {
    bool fails = why->code == PF_E_GONE || why->code == PF_E_TIMEOUT;
    if (!fails || !pf_page_fail(region, page, *why, NULL, NULL)) {
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

/* --- loading ahead ------------------------------------------------------------------------------------------------------- */

/* Of a store in C: pages that are LOADING and ours. What cannot be had is left for its own touch. */
static void fill_ahead(pf_region_t *region, uint64_t page, uint32_t count, const pf_wait_t *wait) {
  uint64_t started = pf_now_ns();
  pf_why_t why;
  bool permanent, again;
  if (!fill(region, page, count, wait, &why, &permanent, &again) || again) {
    pf_pages_unclaim(region, page, count);
    return;
  }
  note_load(region, count, started);
  atomic_fetch_add_explicit(&region->counters.readahead_pages, 1, memory_order_relaxed); /* the first one, too */
}

/* Of a store in JavaScript: pages that are LOADING and ours. False: the pager has no slot for them now, and they are nobody's. */
static bool ask_for_later(pf_region_t *region, uint64_t page, uint32_t count) {
  pf_wait_t no_wait = {.background = true};
  pf_why_t why;
  if (reads_zero(region, page)) {
    load_zero(region, page, &no_wait, &why);
    return true;
  }
  if (!pf_pager_ask_ahead(region, page, count)) {
    pf_pages_unclaim(region, page, count);
    return false;
  }
  return true;
}

uint32_t pf_pages_bring_ahead(pf_region_t *region, uint64_t page, uint32_t want, const pf_wait_t *wait) {
  bool pager = region->source.kind == PF_SOURCE_PAGER;
  uint8_t seen = atomic_load_explicit(&region->states[page], memory_order_relaxed);
  if ((seen & PF_STATE) != PF_ABSENT || !claim_plain(region, page, seen)) {
    return 1;
  }
  pf_wait_t no_wait = {.background = true};
  pf_why_t why;
  uint32_t count = charge_run(region, page, pager ? claim_to_ask(region, page, want) : claim_run(region, page, want), &no_wait, &why);
  if (count == 0) {
    return 1;
  }
  if (pager) {
    return ask_for_later(region, page, count) ? count : 0;
  }
  fill_ahead(region, page, count, wait);
  return count;
}

/* --- every page ------------------------------------------------------------------------------------------------------------- */

/* A failed page is LOADING and ours: what it was opened with goes. */
static bool unfail(pf_region_t *region, uint64_t page, uint8_t was) {
  uint64_t one = page;
  if ((was & PF_ZEROED) && !pf_pages_drop(region, &one, 1)) {
    pf_page_settle(region, page, PF_FAILED | PF_ZEROED); /* still open: it cannot be filled under its readers */
    return false;
  }
  pf_page_unbar(region, page);
  atomic_fetch_sub(&region->counters.failed_pages, 1);
  return true;
}

static bool load_claimed(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why) {
  int stopped = wait->background ? 0 : 1; /* in the middle of an instruction, or of a copy */
  if (!wait->background) {
    pf_touched_note(region, page, 1);
  }
  pf_budget_crowd(region, stopped);
  bool loaded = region->source.kind == PF_SOURCE_PAGER ? load_by_pager(region, page, wait, why) : load_here(region, page, wait, why);
  pf_budget_crowd(region, -stopped);
  return loaded;
}

void pf_page_why_failed(const pf_region_t *region, uint64_t page, pf_why_t *why) {
  if (!pf_failure_why(atomic_load(&region->id), page << region->page_shift, why)) {
    *why = (pf_why_t){.code = PF_E_STORE};
  }
}

/* A page that could not be taken back. False: it is dirty, so it cannot be read again either, and the deadline is over. */
static bool wait_for_memory(pf_region_t *region, uint64_t page, const pf_wait_t *wait, pf_why_t *why) {
  if ((atomic_load(&region->states[page]) & PF_STATE) != PF_STAGED) {
    return true;
  }
  if (pf_now_ns() >= wait->deadline_ns) {
    *why = (pf_why_t){.code = PF_E_NO_MEMORY};
    return false;
  }
  pf_about_to_block();
  pf_sleep_until(pf_now_ns() + BACKOFF_FIRST_NS);
  return true;
}

static bool bring(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why) {
  bool heal = wait->heal;
  /* The page may have been there since. The thread that this one serves may have gone on then, and have let the page go, or forgotten what it wrote. If not it asks
   * again. */
  bool asked = false, brought = false, ours = false;
  for (;;) {
    uint8_t seen = atomic_load(&region->states[page]);
    unsigned state = seen & PF_STATE;
    *why = (pf_why_t){0};
    if (pf_must_stop(region, wait, why)) {
      return false;
    }
    brought = brought || (asked && (state == PF_ABSENT || state == PF_STAGED));
    if (state == PF_PRESENT || (brought && wait->tid != 0 && state != PF_FAILED)) {
      return true;
    }
    if (state == PF_FAILED && !heal) {
      pf_page_why_failed(region, page, why);
      return false;
    }
    if (state == PF_ABSENT || state == PF_FAILED) {
      if (region->source.kind == PF_SOURCE_PAGER && pf_pager_is_me(region->source.pager, wait)) {
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
      asked = ours = true;
    } else if (state == PF_STAGED) {
      if (claim(region, page, seen, 0)) {
        if (pf_page_steal(region, page)) {
          return true;
        }
        if (!wait_for_memory(region, page, wait, why)) {
          return false;
        }
      }
    } else {
      if (region->source.kind == PF_SOURCE_PAGER && !wait->background && !ours) {
        pf_pager_hurry(region, page); /* if it was asked for ahead */
      }
      if (!pf_page_wait(region, page, wait, why)) {
        return false;
      }
      brought = true;
      ours = false;
    }
  }
}

/* A wait that ended without the page, although nothing is wrong with that: nobody else tells of it. */
static void tell(pf_region_t *region, uint64_t page, pf_why_t why) {
  bool of_wait = why.code == PF_E_TIMEOUT || why.code == PF_E_BUDGET || why.code == PF_E_NO_MEMORY || why.code == PF_E_WRITE;
  if (of_wait && (atomic_load(&region->states[page]) & PF_STATE) != PF_FAILED) {
    pf_failure_record(region, page, PF_ASK_READ, why, NULL, NULL);
  }
}

bool pf_page_ensure(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why) {
  bool there = bring(region, page, wait, why);
  if (!there) {
    tell(region, page, *why);
  } else if (wait->heal && pf_page_barred(region, page)) { /* for somebody else, when it could not be had */
    pf_page_lift_bar(region, page);
  }
  return there;
}

bool pf_page_ensure_for_call(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why) {
  if ((atomic_load(&region->states[page]) & PF_STATE) == PF_PRESENT) {
    return pf_page_ensure(region, page, wait, why);
  }
  pf_thread_t *thread = pf_thread_begin_wait(region, page, wait);
  bool there = pf_page_ensure(region, page, wait, why);
  pf_thread_end_wait(thread);
  return there;
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
    bool there = pf_page_ensure_for_call(region, page, &wait, why);
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
