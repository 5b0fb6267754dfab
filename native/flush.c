/*
 * Flushing: the dirty pages of a range are written to the store, and the store makes them durable. On a thread of the loader, never in a handler.
 *
 *   for each run of dirty pages:  hold ──▶ own ──▶ mark STICKY, protect ──▶ let go ──▶ write ──▶ no longer hold
 *   then, once:                   sync ──▶ the marks of what this flush wrote are taken off
 *
 * Protecting interrupts every other thread of the process. Where the kernel notes writes (PF_TRACK_ASYNC) and C writes them, the pages between two runs that are not far apart
 * are owned along with them, and one PAGEMAP_SCAN protects what was written of all of it, and says what that was. While they are owned nobody can close
 * one of them, and whoever asks what is dirty waits (write.c): so the kernel may forget before the pages are marked.
 *
 * A page counts as dirty from its mark to the end: whatever fails in between leaves every mark, and the next flush writes it all again. A write that lands
 * after the protection is seen as a new one, so the page is dirty again when this flush is done. Held pages are not evicted, so the store is given the
 * memory itself; a page is not held any longer than its bytes are needed, and may then be evicted like any other: STICKY, it counts as dirty, and is
 * written once more.
 *
 * If the sync fails, what eviction had written since the last one is LOST: nobody knows whether the store has it. The next flush reads it back and writes
 * it again; to sync once more would not do, because the kernel tells of a failure once and forgets what it could not write.
 *
 * Nothing is waited for while a page is owned. One flush of a region at a time.
 */
#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RUN_PAGES 256 /* written at once */
#define SPAN_PAGES 512 /* protected at once, in a range that one page table describes: the kernel interrupts the other threads once for each of those */
#define SPAN_BYTES ((uintptr_t)SPAN_PAGES << 12)
#define GAP_PAGES 64 /* to own and let go so many takes as long as to protect one more run */
#define IN_FLIGHT 8                 /* writes asked of a pager at once */
#define LOOK_AHEAD ((uint64_t)1 << 17) /* pages whose dirty runs are collected at once */
#define WRITES_A_LOOK 16 /* writes before the next look whether the file is still the one that was mapped, which costs a tenth of a small write */

typedef struct {
  uint64_t first, end;
} run_t;

typedef struct {
  run_t *at;
  size_t count, capacity;
  bool failed; /* no memory for one more */
} runs_t;

typedef struct {
  pf_ticket_t ticket;
  uint64_t first;
  uint32_t count;
} asked_t;

typedef struct {
  pf_job_t *job;
  pf_region_t *region;
  uint32_t most;  /* pages held at once for one write */
  uint32_t span;  /* pages owned at once; 0: run by run */
  uint64_t owned[SPAN_PAGES];
  uint64_t armed[SPAN_PAGES / 64]; /* a bit for each of those that the kernel said were written */
  uint32_t writes; /* to a file or memory */
  runs_t written; /* by this flush: STICKY until it ends */
  runs_t found;   /* in the span that is being written */
  asked_t asked[IN_FLIGHT];
  uint32_t oldest, in_flight;
} flush_t;

static void add_run(runs_t *runs, uint64_t first, uint64_t end) {
  if (runs->count > 0 && runs->at[runs->count - 1].end == first) {
    runs->at[runs->count - 1].end = end;
    return;
  }
  if (runs->count == runs->capacity) {
    size_t capacity = runs->capacity == 0 ? 64 : runs->capacity * 2;
    run_t *grown = realloc(runs->at, capacity * sizeof *grown);
    if (grown == NULL) {
      runs->failed = true;
      return;
    }
    runs->at = grown;
    runs->capacity = capacity;
  }
  runs->at[runs->count++] = (run_t){first, end};
}

static void collect(void *context, uint64_t first, uint64_t end) { add_run(context, first, end); }

static bool fail(flush_t *flush, uint64_t page, pf_why_t why) {
  if (flush->job->why.code == PF_OK) {
    flush->job->why = why;
    flush->job->failed_page = page;
  }
  return false;
}

static pf_wait_t wait_of(flush_t *flush) {
  return (pf_wait_t){.deadline_ns = pf_now_ns() + flush->region->timeout_ns, .cancel = &flush->job->cancel, .background = true};
}

/* True: the caller does not want it any more, or the segment is closed; that is the job's reason then. */
static bool given_up(flush_t *flush, uint64_t page) {
  bool cancelled = atomic_load(&flush->job->cancel) != 0;
  if (!cancelled && atomic_load(&flush->region->phase) == PF_PHASE_OPEN) {
    return false;
  }
  fail(flush, page, (pf_why_t){.code = cancelled ? PF_E_ABORTED : PF_E_CLOSED});
  return true;
}

static void tell_progress(flush_t *flush) {
  if (flush->job->progress != NULL) {
    flush->job->progress(flush->job);
  }
}

/* --- writing what is held -------------------------------------------------------------------------------------------------- */

static void wrote(flush_t *flush, uint64_t first, uint32_t count) {
  pf_counters_t *counters = &flush->region->counters;
  atomic_fetch_add(&counters->flushed_pages, count);
  atomic_fetch_add(&counters->bytes_written, pf_stored_bytes(flush->region, first, count));
  atomic_fetch_add(&flush->job->pages_done, count);
  add_run(&flush->written, first, first + count);
}

static bool not_written(flush_t *flush, uint64_t page, pf_why_t why) {
  if (why.code != PF_E_CLOSED && why.code != PF_E_ABORTED) {
    atomic_fetch_add(&flush->region->counters.write_failures, 1);
  }
  return fail(flush, page, why);
}

/* The oldest write that a pager was asked for. */
static bool await_oldest(flush_t *flush) {
  asked_t *asked = &flush->asked[flush->oldest];
  pf_wait_t wait = wait_of(flush);
  pf_pager_await(flush->region, &asked->ticket, &wait);
  pf_pages_unhold(flush->region, asked->first, asked->count);
  flush->oldest = (flush->oldest + 1) % IN_FLIGHT;
  flush->in_flight--;
  if (asked->ticket.why.code != PF_OK) {
    return not_written(flush, asked->first, asked->ticket.why);
  }
  wrote(flush, asked->first, asked->count);
  return true;
}

static bool await_all(flush_t *flush) {
  bool fine = true;
  while (flush->in_flight > 0) {
    fine = await_oldest(flush) && fine;
  }
  return fine;
}

/* Pages that are held and protected: they are let go once they are written. */
static bool write_out(flush_t *flush, uint64_t first, uint32_t count) {
  pf_region_t *region = flush->region;
  pf_why_t why = {0};
  if (region->source.kind == PF_SOURCE_PAGER) {
    bool room = flush->in_flight < IN_FLIGHT || await_oldest(flush);
    asked_t *asked = &flush->asked[(flush->oldest + flush->in_flight) % IN_FLIGHT];
    pf_wait_t wait = wait_of(flush);
    *asked = (asked_t){.first = first, .count = count};
    if (room && pf_pager_ask_write(region, first, count, &asked->ticket, &wait, &why)) {
      flush->in_flight++;
      return true;
    }
    pf_pages_unhold(region, first, count);
    return room && not_written(flush, first, why);
  }
  atomic_fetch_add(&region->counters.store_writes, 1);
  uint64_t offset = first << region->page_shift;
  bool written = (flush->writes++ % WRITES_A_LOOK != 0 || pf_source_look(&region->source, &why)) &&
                 pf_source_write(&region->source, offset, pf_page_bytes(region, first), pf_stored_bytes(region, first, count), &why);
  pf_pages_unhold(region, first, count);
  if (!written) {
    return not_written(flush, first, why);
  }
  wrote(flush, first, count);
  return true;
}

/* --- making pages ready ---------------------------------------------------------------------------------------------------- */

/* Pages that are ours: from here on a write to them is a new one. */
static bool protect(flush_t *flush, uint64_t first, uint32_t count) {
  pf_region_t *region = flush->region;
  uint64_t pages[RUN_PAGES];
  uint8_t before[RUN_PAGES];
  for (uint32_t i = 0; i < count; i++) {
    pages[i] = first + i;
    before[i] = (uint8_t)pf_marks(region, first + i);
    pf_mark(region, first + i, PF_M_STICKY);
    pf_unmark(region, first + i, PF_M_DIRTY);
  }
  int err = pf_back_protect(region, first, count);
  for (uint32_t i = 0; i < count; i++) {
    if (err == 0) {
      pf_unmark(region, first + i, PF_M_WRITABLE);
    } else {
      pf_mark(region, first + i, before[i] | PF_M_DIRTY); /* some may be protected: their next write looks at the marks, and opens them again */
      pf_unmark(region, first + i, PF_M_WRITABLE);
    }
  }
  pf_pages_return(region, pages, count);
  return err == 0 || fail(flush, first, (pf_why_t){.code = PF_E_NO_MEMORY, .err = -err});
}

typedef enum { TAKEN, NOT_DIRTY, BUSY } taken_t;

/* A page that is held becomes ours, if there is anything to write. */
static taken_t take(pf_region_t *region, uint64_t page) {
  for (;;) {
    uint8_t seen = atomic_load(&region->states[page]);
    unsigned marks = pf_marks(region, page);
    bool dirty = (marks & (PF_M_DIRTY | PF_M_STICKY)) != 0;
    switch (seen & PF_STATE) {
      case PF_PRESENT:
        if (marks & PF_M_DISCARD) {
          return NOT_DIRTY;
        }
        if (pf_page_own(region, page)) {
          return TAKEN;
        }
        break;
      case PF_STAGED:
        if (!dirty) {
          return NOT_DIRTY;
        }
        if (atomic_compare_exchange_strong(&region->states[page], &seen, (uint8_t)((seen & ~PF_STATE) | PF_LOADING)) &&
            !pf_page_steal(region, page)) {
          return BUSY;
        }
        break;
      case PF_LOADING: /* being taken back; or being read, and then it was evicted, and written, since we looked */
        return dirty ? BUSY : NOT_DIRTY;
      case PF_ABSENT:
      case PF_FAILED:
        return NOT_DIRTY;
      default:
        return BUSY;
    }
  }
}

/* Waits for a page that somebody else is at. Nothing is owned. The first wait sets the deadline. */
static bool wait_for(flush_t *flush, uint64_t page, uint64_t *deadline) {
  pf_wait_t wait = wait_of(flush);
  pf_why_t why = {.code = PF_E_NO_MEMORY};
  *deadline = *deadline == 0 ? wait.deadline_ns : *deadline;
  wait.deadline_ns = *deadline;
  if (pf_now_ns() >= *deadline || !pf_page_wait(flush->region, page, &wait, &why)) {
    return fail(flush, page, why);
  }
  pf_sleep_until(pf_now_ns() + 20000ULL); /* a dirty page that could not be taken back is STAGED again at once */
  return true;
}

/* Shared memory lies elsewhere than its neighbours: each page of it is a run. */
static bool ends_run(const pf_region_t *region, uint64_t page) { return pf_is_patched(region, page) || pf_is_patched(region, page - 1); }

/* Pages that are held and that the store may have lost are read and DIRTY, unless somebody else saw to that. What is being written is waited for: its pages are
 * held, and reading needs room in the budget. */
static bool bring_back(flush_t *flush, uint64_t first, uint32_t count) {
  pf_region_t *region = flush->region;
  bool fine = true;
  for (uint64_t page = first; fine && page < first + count; page++) {
    pf_wait_t wait = wait_of(flush);
    pf_why_t why;
    wait.heal = true;
    wait.window = 1;
    if (pf_marks(region, page) & PF_M_LOST) {
      fine = await_all(flush) && (pf_page_ensure(region, page, &wait, &why) || fail(flush, page, why));
      if (fine) {
        pf_mark(region, page, PF_M_DIRTY);
        pf_unmark(region, page, PF_M_LOST);
      }
    }
  }
  return fine;
}

/* A few pages that are held, some of which may not be dirty any more. Lets go of all. */
static bool flush_held(flush_t *flush, uint64_t first, uint32_t count) {
  pf_region_t *region = flush->region;
  bool fine = bring_back(flush, first, count);
  uint64_t deadline = 0;
  for (uint32_t at = 0; at < count;) {
    uint32_t owned = 0;
    taken_t last = TAKEN;
    while (fine && at + owned < count && owned < RUN_PAGES && !(owned > 0 && ends_run(region, first + at + owned)) && (last = take(region, first + at + owned)) == TAKEN) {
      owned++;
    }
    if (owned > 0) {
      if (protect(flush, first + at, owned)) {
        fine = write_out(flush, first + at, owned);
      } else {
        pf_pages_unhold(region, first + at, owned);
        fine = false;
      }
      at += owned;
    } else if (!fine || last == NOT_DIRTY) {
      pf_pages_unhold(region, first + at++, 1);
    } else {
      fine = wait_for(flush, first + at, &deadline);
    }
  }
  return fine;
}

static bool flush_run(flush_t *flush, const run_t *run) {
  pf_region_t *region = flush->region;
  for (uint64_t page = run->first; page < run->end;) {
    uint32_t count = run->end - page < flush->most ? (uint32_t)(run->end - page) : flush->most;
    if (given_up(flush, page)) {
      return false;
    }
    if (pf_pages_hold(region, page, count) != 0) {
      return fail(flush, page, (pf_why_t){.code = PF_E_NO_MEMORY, .err = ENOMEM});
    }
    if (!flush_held(flush, page, count)) {
      return false;
    }
    page += count;
    tell_progress(flush);
  }
  return true;
}

/* --- a span: several runs, and what lies between them --------------------------------------------------------------------------- */

/* Where in the runs we are. */
typedef struct {
  const runs_t *runs;
  size_t at;
  uint64_t page; /* of runs->at[at], and all before it is done */
} cursor_t;

static void go_to(cursor_t *cursor, uint64_t page) {
  while (cursor->at < cursor->runs->count && cursor->runs->at[cursor->at].end <= page) {
    cursor->at++;
  }
  if (cursor->at < cursor->runs->count) {
    const run_t *run = &cursor->runs->at[cursor->at];
    cursor->page = page > run->first ? page : run->first;
  }
}

/* Not what is to be dropped, or read first, or lies elsewhere. A page that is not STALE when it becomes ours does not become so. */
static bool own_plain(pf_region_t *region, uint64_t page) {
  uint8_t seen = atomic_load(&region->states[page]);
  do {
    if ((seen & (PF_STATE | PF_STALE)) != PF_PRESENT) {
      return false;
    }
  } while (!atomic_compare_exchange_weak(&region->states[page], &seen, (uint8_t)((seen & ~PF_STATE) | PF_INSTALLING)));
  if ((pf_marks(region, page) & (PF_M_DISCARD | PF_M_LOST)) == 0 && !pf_is_patched(region, page)) {
    return true;
  }
  pf_pages_return(region, &page, 1);
  return false;
}

/* Pages from the cursor on, to the last dirty one within reach, become ours. How many; the cursor goes behind them. */
static uint32_t own_span(flush_t *flush, cursor_t *cursor) {
  pf_region_t *region = flush->region;
  uint64_t first = cursor->page;
  uint64_t limit = first + 1 + ((SPAN_BYTES - 1 - ((uintptr_t)pf_page_address(region, first) & (SPAN_BYTES - 1))) >> region->page_shift);
  limit = limit - first < flush->span ? limit : first + flush->span;
  uint32_t count = 0, dirty = 0;
  for (cursor_t ahead = *cursor; ahead.at < cursor->runs->count && ahead.page < limit && ahead.page - (first + dirty) <= GAP_PAGES;) {
    uint64_t end = cursor->runs->at[ahead.at].end < limit ? cursor->runs->at[ahead.at].end : limit;
    while (first + count < end && own_plain(region, first + count)) {
      flush->owned[count] = first + count;
      count++;
    }
    dirty = first + count > ahead.page ? count : dirty;
    if (first + count < end) {
      break;
    }
    go_to(&ahead, end);
  }
  pf_pages_return(region, flush->owned + dirty, count - dirty);
  go_to(cursor, first + dirty);
  return dirty;
}

static void note_armed(void *context, uint8_t *start, uint8_t *end) {
  flush_t *flush = context;
  pf_region_t *region = flush->region;
  uint64_t first = (uint64_t)(start - region->base) >> region->page_shift, last = (uint64_t)(end - 1 - region->base) >> region->page_shift;
  for (uint64_t at = first - flush->owned[0]; at <= last - flush->owned[0]; at++) {
    flush->armed[at / 64] |= 1ULL << (at % 64);
  }
}

/* The owned pages are let go: those that are dirty are held, STICKY, and from here on a write to one is a new one. They are added to `dirty`. */
static bool arm_span(flush_t *flush, uint32_t count, runs_t *dirty) {
  pf_region_t *region = flush->region;
  uint64_t first = flush->owned[0];
  memset(flush->armed, 0, sizeof flush->armed);
  int err = pf_own_uffd_arm(pf_page_address(region, first), (size_t)count << region->page_shift, note_armed, flush);
  int refused = 0;
  for (uint32_t i = 0; i < count; i++) {
    bool written = err != 0 || (flush->armed[i / 64] >> (i % 64) & 1); /* where it failed, nobody knows */
    if (!written && !(pf_marks(region, first + i) & (PF_M_DIRTY | PF_M_STICKY))) {
      continue;
    }
    pf_mark(region, first + i, err != 0 ? PF_M_DIRTY : PF_M_STICKY);
    if (err == 0) {
      pf_unmark(region, first + i, PF_M_DIRTY);
      add_run(dirty, first + i, first + i + 1);
    }
  }
  size_t held = 0;
  for (; !dirty->failed && held < dirty->count && refused == 0; held += refused == 0) {
    refused = pf_pages_hold(region, dirty->at[held].first, (uint32_t)(dirty->at[held].end - dirty->at[held].first));
  }
  dirty->count = held;
  pf_pages_return(region, flush->owned, count);
  if (err != 0) {
    return fail(flush, first, (pf_why_t){.code = PF_E_NO_MEMORY, .err = -err});
  }
  return (refused == 0 && !dirty->failed) || fail(flush, first, (pf_why_t){.code = PF_E_NO_MEMORY, .err = ENOMEM});
}

/* Runs of pages that are held are written, or, once anything has failed, only let go. */
static bool write_runs(flush_t *flush, const runs_t *dirty, bool fine) {
  for (size_t i = 0; i < dirty->count; i++) {
    for (uint64_t page = dirty->at[i].first, end = dirty->at[i].end; page < end;) {
      uint32_t count = end - page < flush->most ? (uint32_t)(end - page) : flush->most;
      fine = fine && !given_up(flush, page);
      if (!fine) {
        pf_pages_unhold(flush->region, page, count);
      } else {
        fine = write_out(flush, page, count);
      }
      if (fine) {
        tell_progress(flush);
      }
      page += count;
    }
  }
  return fine;
}

static bool flush_spans(flush_t *flush, const runs_t *dirty) {
  cursor_t cursor = {.runs = dirty, .page = dirty->count > 0 ? dirty->at[0].first : 0};
  bool fine = true;
  while (fine && cursor.at < dirty->count) {
    uint32_t owned = own_span(flush, &cursor);
    if (owned > 0) {
      flush->found.count = 0;
      fine = arm_span(flush, owned, &flush->found);
      fine = write_runs(flush, &flush->found, fine);
    } else { /* the first of them is not plain */
      uint64_t end = dirty->at[cursor.at].end;
      run_t some = {cursor.page, end - cursor.page < flush->most ? end : cursor.page + flush->most};
      fine = flush_run(flush, &some);
      go_to(&cursor, some.end);
    }
  }
  return fine;
}

/* --- a part of the range ---------------------------------------------------------------------------------------------------------- */

static bool flush_range(flush_t *flush, uint64_t first, uint64_t end) {
  runs_t dirty = {0};
  int err = pf_region_dirty(flush->region, first, end, collect, &dirty);
  bool fine = err == 0 && !dirty.failed;
  if (!fine) {
    fail(flush, first, (pf_why_t){.code = err != 0 ? PF_E_SYSTEM : PF_E_NO_MEMORY, .err = err != 0 ? -err : ENOMEM});
  }
  if (fine && flush->span > 0) {
    fine = flush_spans(flush, &dirty);
  }
  for (size_t i = 0; fine && flush->span == 0 && i < dirty.count; i++) {
    fine = flush_run(flush, &dirty.at[i]);
  }
  free(dirty.at);
  return fine;
}

/* --- all of it ---------------------------------------------------------------------------------------------------------------- */

/* Pages with some of these marks lose them; `lost`: they are to be written again. */
static void settle_owed(pf_region_t *region, unsigned marks, bool lost) {
  for (uint64_t page = 0; page < region->store_pages; page++) {
    bool eight = (page & 7) == 0 && page + 8 <= region->store_pages;
    if (eight && (atomic_load((const _Atomic uint64_t *)(const void *)&region->marks[page]) & 0x0101010101010101ULL * marks) == 0) {
      page += 7;
    } else if (pf_marks(region, page) & marks) {
      pf_mark(region, page, lost ? PF_M_LOST : 0);
      pf_unmark(region, page, marks);
    }
  }
}

static bool sync_store(flush_t *flush) {
  pf_region_t *region = flush->region;
  bool evicted = atomic_exchange(&region->unsynced, 0) != 0;
  bool owed = evicted || flush->written.count > 0;
  unsigned covered = owed && (atomic_fetch_add(&region->syncs, 1) & 1) ? PF_M_OWED_1 : PF_M_OWED_0;
  pf_why_t why = {0};
  bool synced = true, asked = true;
  if (owed && region->source.kind == PF_SOURCE_PAGER) {
    pf_ticket_t ticket = {0};
    pf_wait_t wait = wait_of(flush);
    synced = pf_pager_ask_write(region, 0, 0, &ticket, &wait, &why);
    if (synced) {
      pf_pager_await(region, &ticket, &wait);
      why = ticket.why;
      synced = why.code == PF_OK;
    }
  } else if (owed) {
    asked = flush->writes == 0 || pf_source_look(&region->source, &why);
    synced = asked && pf_source_sync(&region->source, &why);
  }
  if (!synced) {
    if (asked) {
      settle_owed(region, PF_M_OWED, true);
    }
    atomic_store(&region->unsynced, 1);
    return not_written(flush, flush->job->first, why);
  }
  if (evicted) {
    settle_owed(region, covered, false);
  }
  return true;
}

/* One at a time. False: it was given up. */
static bool begin(flush_t *flush) {
  pf_region_t *region = flush->region;
  for (uint32_t none = 0; !atomic_compare_exchange_strong(&region->flushing, &none, 1); none = 0) {
    if (given_up(flush, flush->job->first)) {
      return false;
    }
    pf_futex_wait(&region->flushing, 1, pf_now_ns() + 10000000ULL);
  }
  return true;
}

static void end(pf_region_t *region) {
  atomic_store(&region->flushing, 0);
  pf_futex_wake_all(&region->flushing);
}

/* How many pages may be held at once: a small part of a budget, because held pages are not evicted. */
static uint32_t most_held(pf_region_t *region) {
  uint64_t most = PF_WRITE_MAX;
  if (region->budget != NULL) {
    pf_budget_numbers_t numbers;
    pf_budget_numbers(region->budget, &numbers);
    uint64_t part = numbers.limit / (region->source.kind == PF_SOURCE_PAGER ? 4 * IN_FLIGHT : 8);
    most = part < most ? part : most;
  }
  most >>= region->page_shift;
  return most == 0 ? 1 : most < RUN_PAGES ? (uint32_t)most : RUN_PAGES;
}

/* How many pages may be owned at once, and then held until the last of them is written; 0: run by run. A pager takes its time, and some wait for what is held. */
static uint32_t most_owned(const pf_region_t *region, uint32_t most) {
  if (region->track != PF_TRACK_ASYNC || region->source.kind == PF_SOURCE_PAGER) {
    return 0;
  }
  return region->budget == NULL ? SPAN_PAGES : most;
}

static void run(pf_job_t *job) {
  flush_t *flush = calloc(1, sizeof *flush);
  pf_region_t *region = job->region;
  if (flush == NULL) {
    job->why = (pf_why_t){.code = PF_E_NO_MEMORY, .err = ENOMEM};
    return;
  }
  flush->job = job;
  flush->region = region;
  flush->most = most_held(region);
  flush->span = most_owned(region, flush->most);
  if (begin(flush)) {
    bool fine = true;
    for (uint64_t at = job->first; fine && at < job->end; at += LOOK_AHEAD) {
      fine = flush_range(flush, at, job->end - at < LOOK_AHEAD ? job->end : at + LOOK_AHEAD);
    }
    fine = await_all(flush) && fine;
    if (fine && flush->written.failed) {
      fine = fail(flush, job->first, (pf_why_t){.code = PF_E_NO_MEMORY, .err = ENOMEM});
    }
    if (fine && sync_store(flush)) {
      for (size_t i = 0; i < flush->written.count; i++) {
        for (uint64_t page = flush->written.at[i].first; page < flush->written.at[i].end; page++) {
          pf_unmark(region, page, PF_M_STICKY);
        }
      }
    }
    end(region);
  }
  free(flush->written.at);
  free(flush->found.at);
  free(flush);
}

/* Whatever it failed of is an event too, once. */
void pf_flush_run(pf_job_t *job) {
  sigset_t before;
  pf_mask_signals(&before);
  uint64_t serial = pf_failure_serial();
  pf_restore_signals(&before);
  run(job);
  pf_code_t code = job->why.code;
  if (code != PF_OK && code != PF_E_ABORTED && code != PF_E_CLOSED) {
    pf_failure_record_once(job->region, job->failed_page, code == PF_E_SYNC ? PF_ASK_SYNC : PF_ASK_WRITE, job->why, serial);
  }
}
