/* sanitizers: address,thread,none */
/*
 * Stores that a pager writes: asked before the first write and once for each time that a page is clean, slow, silent, refusing, dead in the middle of anything. No page is
 * lost, no wait is without an end, and a write that comes too late does not undo a later one.
 */
#include "write_support.h"

/* --- regions over a pager ------------------------------------------------------------------------------------------------------ */

typedef struct {
  write_store_t *writes;
  pf_region_t *region;
  pf_budget_t *budget;
} paged_t;

static paged_t open_paged(uint64_t pages, uint64_t stored, uint64_t budget_pages, pf_region_options_t options) {
  paged_t paged = {.writes = calloc(1, sizeof *paged.writes)};
  must(paged.writes != NULL, "memory");
  start_write_store(paged.writes, stored);
  options.writable = true;
  options.store_length = stored;
  if (budget_pages > 0) {
    must(pf_budget_create(budget_pages * PAGE, &paged.budget) == 0, "a budget");
    options.budget = paged.budget;
  }
  paged.region = open_region(the_backend, pager_source(&paged.writes->store), pages * PAGE, options);
  EXPECT_EQ(paged.region->track, options.on_write ? PF_TRACK_FAULT : the_track);
  return paged;
}

static void close_paged(paged_t *paged) {
  EXPECT(close_region(paged->region));
  if (paged->budget != NULL) {
    pf_budget_numbers_t numbers;
    pf_budget_numbers(paged->budget, &numbers);
    EXPECT_EQ(numbers.used, 0);
    pf_budget_drop(paged->budget);
  }
  stop_write_store(paged->writes);
  free(paged->writes);
}

/* As eviction does. Signals masked. */
static void evict_page(pf_region_t *region, uint64_t page) {
  uint64_t one = page;
  uint8_t seen = atomic_load(&region->states[page]);
  sigset_t before;
  pf_mask_signals(&before);
  EXPECT((seen & PF_STATE) == PF_PRESENT);
  EXPECT(atomic_compare_exchange_strong(&region->states[page], &seen, (uint8_t)((seen & ~PF_STATE) | PF_EVICTING)));
  EXPECT_EQ(pf_pages_close(region, &one, 1), 1);
  atomic_fetch_sub(&region->counters.resident, pf_page_size(region));
  pf_pages_retire(region, &one, 1);
  pf_restore_signals(&before);
}

typedef struct {
  _Atomic uint64_t *value;
  uint64_t least;
} reached_t;

static bool reached(void *data) { return atomic_load(((reached_t *)data)->value) >= ((reached_t *)data)->least; }

static bool wait_for_orders(write_store_t *writes, unsigned access, uint64_t least) {
  reached_t what = {&writes->asked[access], least};
  return wait_until(reached, &what, LONG_MS);
}

static bool has_kept(void *data) { return atomic_load(&((write_store_t *)data)->kept_count) > 0; }
static bool answered_kept(void *data) { return atomic_load(&((write_store_t *)data)->answer_kept) == 0; }

static void answer_what_was_kept(write_store_t *writes) {
  atomic_store(&writes->answer_kept, 1);
  EXPECT(wait_until(answered_kept, writes, LONG_MS));
}

/* --- asking before the first write ------------------------------------------------------------------------------------------------- */

static void asked_once(void) {
  paged_t paged = open_paged(8, 8 * PAGE - 100, 0, OPTIONS(.on_write = true));
  pf_region_t *region = paged.region;
  write_store_t *writes = paged.writes;
  _Atomic uint64_t *asked = &writes->asked[PF_ASK_ON_WRITE];
  EXPECT_EQ(touch(region, 0), pattern(0));
  EXPECT_EQ(atomic_load(asked), 0);
  poke(region, 1, 5); /* read, then written */
  EXPECT_EQ(atomic_load(asked), 1);
  EXPECT_EQ(atomic_load(&writes->lasts[0]), 0);
  EXPECT_EQ(atomic_load(&writes->lasts[1]), PAGE);
  poke(region, 2, 5);
  uint8_t byte = 7;
  EXPECT_EQ(copy_in(region, 3, &byte, 1), PF_OK);
  EXPECT_EQ(atomic_load(asked), 1);
  poke(region, 7 * PAGE, 5); /* touched first by a write */
  EXPECT_EQ(atomic_load(&writes->asked[PF_ASK_READ_TO_WRITE]), 1);
  EXPECT_EQ(atomic_load(asked), 2);
  EXPECT_EQ(atomic_load(&writes->lasts[0]), 7 * PAGE);
  EXPECT_EQ(atomic_load(&writes->lasts[1]), PAGE - 100);
  EXPECT_EQ(copy_in(region, 2 * PAGE, &byte, 1), PF_OK);
  EXPECT_EQ(atomic_load(asked), 3);
  EXPECT_EQ(dirty_bits(region), 0x85);
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT_EQ(atomic_load(&writes->asked[PF_ASK_SYNC]), 1);
  poke(region, 4, 5); /* clean again: asked again */
  EXPECT_EQ(atomic_load(asked), 4);
  reset_detection(region, 0, 8);
  poke(region, 5, 5);
  EXPECT_EQ(atomic_load(asked), 5);
  EXPECT(stage_page(region, 0)); /* dirty all the time: not asked */
  poke(region, 6, 5);
  EXPECT_EQ(atomic_load(asked), 5);
  EXPECT(discard(region, 0, 8));
  poke(region, 7, 5);
  EXPECT_EQ(atomic_load(asked), 6);
  EXPECT_EQ(touch(region, 6), pattern(6));
  EXPECT_EQ(writes->bytes[1], 5);
  EXPECT_EQ(writes->bytes[6], pattern(6));
  EXPECT_EQ(writes->bytes[7 * PAGE], 5);
  close_paged(&paged);
}

static void not_asked_behind_the_end(void) {
  paged_t paged = open_paged(8, 4 * PAGE + 1, 0, OPTIONS(.on_write = true));
  poke(paged.region, 6 * PAGE, 5);
  EXPECT_EQ(touch(paged.region, 6 * PAGE), 5);
  EXPECT_EQ(atomic_load(&paged.writes->asked[PF_ASK_ON_WRITE]), 0);
  poke(paged.region, 4 * PAGE, 5);
  EXPECT_EQ(atomic_load(&paged.writes->lasts[1]), 1);
  EXPECT_EQ(dirty_bits(paged.region), 0x10);
  EXPECT_EQ(flush_all(paged.region), PF_OK);
  EXPECT_EQ(paged.writes->bytes[4 * PAGE], 5);
  close_paged(&paged);
}

/* Many threads write to one page at once. */
static void *poke_own_byte(void *data) {
  const uint64_t *work = data;
  poke((pf_region_t *)(uintptr_t)work[0], work[1], (uint8_t)work[1]);
  return NULL;
}

static void asked_once_by_many(void) {
  enum { THREADS = 8 };
  for (int round = 0; round < (SLOW ? 5 : 20); round++) {
    paged_t paged = open_paged(4, 4 * PAGE, 0, OPTIONS(.on_write = true));
    atomic_store(&paged.writes->slow_ms[PF_ASK_ON_WRITE], 3);
    pthread_t threads[THREADS];
    uint64_t work[THREADS][2];
    for (uint64_t i = 0; i < THREADS; i++) {
      work[i][0] = (uint64_t)(uintptr_t)paged.region;
      work[i][1] = PAGE + 1 + i;
      must(pthread_create(&threads[i], NULL, poke_own_byte, work[i]) == 0, "a thread");
    }
    for (uint64_t i = 0; i < THREADS; i++) {
      pthread_join(threads[i], NULL);
    }
    EXPECT_EQ(atomic_load(&paged.writes->asked[PF_ASK_ON_WRITE]), 1);
    EXPECT_EQ(flush_all(paged.region), PF_OK);
    for (uint64_t i = 0; i < THREADS; i++) {
      EXPECT_EQ(paged.writes->bytes[PAGE + 1 + i], (uint8_t)(PAGE + 1 + i));
    }
    close_paged(&paged);
  }
}

static void refused(void) {
  paged_t paged = open_paged(8, 8 * PAGE, 0, OPTIONS(.on_write = true));
  pf_region_t *region = paged.region;
  uint8_t byte = 7;
  atomic_store(&paged.writes->fail[PF_ASK_ON_WRITE], -1);
  EXPECT_EQ(copy_in(region, PAGE, &byte, 1), PF_E_STORE);
  EXPECT_EQ(state_of(region, 1), PF_PRESENT);
  EXPECT_EQ(touch(region, PAGE), pattern(PAGE));
  EXPECT_EQ(dirty_bits(region), 0);
  pf_failure_t failure;
  EXPECT(pf_failure_find(atomic_load(&region->id), PAGE, &failure) && strcmp(failure.message, "the store said no") == 0);
  EXPECT_EQ(copy_in(region, PAGE, &byte, 1), PF_E_STORE);
  EXPECT_EQ(atomic_load(&paged.writes->asked[PF_ASK_ON_WRITE]), 2);
  EXPECT_EQ(pf_attempt_begin(), 0);
#if defined(__x86_64__)
  poke(region, 2 * PAGE, 9); /* goes nowhere */
  EXPECT(pf_attempt_end(&failure));
  EXPECT_EQ(failure.why.code, PF_E_STORE);
#else
  pf_attempt_end(&failure);
#endif
  EXPECT_EQ(touch(region, 2 * PAGE), pattern(2 * PAGE));
  atomic_store(&paged.writes->fail[PF_ASK_ON_WRITE], 0);
  EXPECT_EQ(copy_in(region, PAGE, &byte, 1), PF_OK);
  poke(region, 2 * PAGE, 9);
  EXPECT_EQ(dirty_bits(region), 6);
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT_EQ(paged.writes->bytes[PAGE], 7);
  close_paged(&paged);
}

/* What else failed is no reason for a page: a sync has its record at the region's first page. */
static void reasons_of_its_own(void) {
  paged_t paged = open_paged(8, 8 * PAGE, 0, OPTIONS(.on_write = true));
  pf_region_t *region = paged.region;
  uint8_t byte = 7;
  pf_why_t why;
  pf_failure_t failure;
  atomic_store(&paged.writes->fail[PF_ASK_READ], -1);
  EXPECT(!ensure(region, 0, LONG_MS, false, &why) && why.code == PF_E_STORE);
  atomic_store(&paged.writes->fail[PF_ASK_READ], 0);
  atomic_store(&paged.writes->fail[PF_ASK_SYNC], -1);
  atomic_store(&paged.writes->with, PF_E_SYNC);
  atomic_store(&region->unsynced, 1);
  EXPECT_EQ(flush_all(region), PF_E_SYNC);
  EXPECT_EQ(copy_in(region, 0, &byte, 1), PF_E_STORE);
  EXPECT(pf_failure_why(atomic_load(&region->id), 0, &why) && why.code == PF_E_STORE);
  pf_failure_of(region, 0, (pf_why_t){.code = PF_E_STORE}, &failure);
  EXPECT(strcmp(failure.message, "the store said no") == 0);
  uint64_t serial = pf_failure_serial();
  pf_failure_record(region, 1, PF_ASK_WRITE, (pf_why_t){.code = PF_E_WRITE}, NULL, NULL);
  EXPECT(!pf_failure_refused(atomic_load(&region->id), PAGE, serial, &why));
  EXPECT_EQ(copy_in(region, PAGE, &byte, 1), PF_OK);
  atomic_store(&paged.writes->fail[PF_ASK_SYNC], 0);
  EXPECT_EQ(flush_all(region), PF_OK);
  close_paged(&paged);
}

static void silent_on_write(void) {
  paged_t paged = open_paged(8, 8 * PAGE, 0, OPTIONS(.on_write = true, .timeout_ms = 150));
  pf_region_t *region = paged.region;
  pf_why_t why;
  uint8_t byte = 7;
  EXPECT(ensure(region, 1, LONG_MS, false, &why));
  atomic_store(&paged.writes->silent[PF_ASK_ON_WRITE], 1);
  uint64_t started = pf_now_ns();
  EXPECT_EQ(copy_in(region, PAGE, &byte, 1), PF_E_TIMEOUT);
  EXPECT(pf_now_ns() - started >= 150 * MS && pf_now_ns() - started < 150 * MS + SOON);
  EXPECT_EQ(state_of(region, 1), PF_PRESENT);
  EXPECT_EQ(dirty_bits(region), 0);
  region->timeout_ns = LONG_MS * MS;
  atomic_store(&paged.writes->silent[PF_ASK_ON_WRITE], 0); /* on a busy machine the store has never seen it */
  answer_what_was_kept(paged.writes); /* too late: it opens nothing */
  EXPECT_EQ(pf_marks(region, 1) & PF_M_WRITABLE, 0);
  EXPECT_EQ(copy_in(region, PAGE, &byte, 1), PF_OK);
  EXPECT_EQ(dirty_bits(region), 2);
  EXPECT_EQ(touch(region, PAGE), 7);
  close_paged(&paged);
}

static void *write_while_pinned(void *data) {
  pf_region_t *region = data;
  pf_wait_t wait = {.deadline_ns = pf_now_ns() + LONG_MS * MS, .write = true};
  pf_why_t why;
  sigset_t before;
  pf_mask_signals(&before);
  EXPECT(!pf_page_admit_write(region, 1, &wait, &why) && why.code == PF_E_TIMEOUT);
  pf_restore_signals(&before);
  return NULL;
}

/* An invalidated page loses its last pin while the store is asked whether it may be written: it goes as soon as that is settled. */
static void unpinned_while_asked(void) {
  paged_t paged = open_paged(8, 8 * PAGE, 0, OPTIONS(.on_write = true));
  pf_region_t *region = paged.region;
  pthread_t writer;
  EXPECT_EQ(pf_pin_add(region, 1, 2), 0);
  EXPECT_EQ(touch(region, PAGE), pattern(PAGE));
  memset(paged.writes->bytes + PAGE, 99, PAGE);
  atomic_store(&paged.writes->silent[PF_ASK_ON_WRITE], 1);
  EXPECT(invalidate(region, 1, 2));
  EXPECT_EQ(touch(region, PAGE), pattern(PAGE)); /* as long as it is pinned */
  must(pthread_create(&writer, NULL, write_while_pinned, region) == 0, "a thread");
  EXPECT(wait_for_orders(paged.writes, PF_ASK_ON_WRITE, 1));
  pf_pin_remove(region, 1, 2);
  EXPECT(pf_pager_abandon(region, 1)); /* as a waiter does at its deadline */
  pthread_join(writer, NULL);
  EXPECT_EQ(touch(region, PAGE), 99);
  answer_what_was_kept(paged.writes);
  close_paged(&paged);
}

/* A raw write that is refused ends the process with a report, also where failed reads would read zeroes. */
static void child_refused(bool zero) {
  default_handlers();
  paged_t paged = open_paged(8, 8 * PAGE, 0, OPTIONS(.on_write = true, .unreadable_zero = zero));
  atomic_store(&paged.writes->fail[PF_ASK_ON_WRITE], -1);
  EXPECT_EQ(touch(paged.region, PAGE), pattern(PAGE));
  poke(paged.region, PAGE, 1);
  _exit(0);
}

static void refused_raw(void) {
  static ended_t ended;
  const char *const children[] = {"refused", "refused-zero"};
  for (int i = 0; i < 2; i++) {
    run_child(children[i], the_backend, &ended);
    EXPECT_SIGNAL(&ended, fatal_signal(the_backend));
    EXPECT_TEXT(&ended, "the store said no");
  }
}

/* --- flushing through a pager ---------------------------------------------------------------------------------------------------------- */

static void flush_by_pager(void) {
  uint64_t pages = 700; /* more than one order holds */
  paged_t paged = open_paged(pages, pages * PAGE - 9, 0, OPTIONS());
  pf_region_t *region = paged.region;
  for (uint64_t page = 0; page < pages; page++) {
    if (page % 97 != 50) {
      poke(region, page * PAGE + 3, (uint8_t)(page + 1));
    }
  }
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT_EQ(dirty_in(region, 0, pages).pages, 0);
  for (uint64_t page = 0; page < pages; page++) {
    EXPECT_EQ(paged.writes->bytes[page * PAGE + 3], page % 97 == 50 ? pattern(page * PAGE + 3) : (uint8_t)(page + 1));
  }
  EXPECT(atomic_load(&paged.writes->asked[PF_ASK_WRITE]) < 40);
  EXPECT_EQ(atomic_load(&paged.writes->asked[PF_ASK_SYNC]), 1);
  EXPECT_EQ(counter(&region->counters.store_writes), atomic_load(&paged.writes->asked[PF_ASK_WRITE]));
  close_paged(&paged);
}

static void flush_fails_at_the_nth(void) {
  for (int pass = 0; pass < 4; pass++) {
    paged_t paged = open_paged(40, 40 * PAGE, 0, OPTIONS());
    pf_region_t *region = paged.region;
    for (uint64_t page = 0; page < 40; page += 10) {
      poke(region, page * PAGE, 200);
    }
    uint64_t dirty = dirty_bits(region);
    atomic_store(&paged.writes->with, PF_E_WRITE);
    atomic_store(&paged.writes->pass[PF_ASK_WRITE], pass);
    atomic_store(&paged.writes->fail[PF_ASK_WRITE], -1);
    pf_why_t why = flush_why(region, 0, 40);
    EXPECT_EQ(why.code, PF_E_WRITE);
    EXPECT_EQ(dirty_bits(region), dirty);
    atomic_store(&paged.writes->fail[PF_ASK_WRITE], 0);
    atomic_store(&paged.writes->with, PF_E_SYNC);
    atomic_store(&paged.writes->fail[PF_ASK_SYNC], 1);
    EXPECT_EQ(flush_all(region), PF_E_SYNC);
    EXPECT_EQ(dirty_bits(region), dirty);
    EXPECT_EQ(flush_all(region), PF_OK);
    EXPECT_EQ(dirty_bits(region), 0);
    close_paged(&paged);
  }
}

/* A page that a flush holds is discarded: when discard() returns, the next write is a new one. */
static void discarded_while_flushed(void) {
  paged_t paged = open_paged(8, 8 * PAGE, 0, OPTIONS());
  pf_region_t *region = paged.region;
  poke(region, 2 * PAGE, 5);
  atomic_store(&paged.writes->slow_ms[PF_ASK_WRITE], 100);
  flushing_t flush;
  begin_flush(&flush, region, 0, 8);
  EXPECT(wait_for_orders(paged.writes, PF_ASK_WRITE, 1));
  EXPECT(discard(region, 0, 8));
  poke(region, 2 * PAGE + 1, 6);
  end_flush(&flush);
  EXPECT_EQ(touch(region, 2 * PAGE + 1), 6);
  EXPECT_EQ(dirty_bits(region), 4);
  close_paged(&paged);
}

/* Pages of a flush that are staged before it is confirmed, and taken back or not, are clean once it is; but not one that was written meanwhile. */
static void staged_while_flushed(void) {
  paged_t paged = open_paged(8, 8 * PAGE, 0, OPTIONS());
  pf_region_t *region = paged.region;
  for (uint64_t page = 0; page < 4; page++) {
    poke(region, page * PAGE, 5);
  }
  atomic_store(&paged.writes->slow_ms[PF_ASK_SYNC], 100);
  flushing_t flush;
  begin_flush(&flush, region, 0, 8);
  EXPECT(wait_for_orders(paged.writes, PF_ASK_SYNC, 1));
  poke(region, 2 * PAGE + 1, 6);
  EXPECT(stage_page(region, 0) && stage_page(region, 1) && stage_page(region, 2));
  EXPECT_EQ(touch(region, 0), 5);
  EXPECT_EQ(end_flush(&flush), PF_OK);
  EXPECT_EQ(dirty_bits(region), 4);
  EXPECT_EQ(touch(region, PAGE), 5);
  EXPECT_EQ(touch(region, 2 * PAGE + 1), 6);
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT_EQ(paged.writes->bytes[2 * PAGE + 1], 6);
  EXPECT_EQ(dirty_bits(region), 0);
  close_paged(&paged);
}

/* A flush is given up while the store is at a write; what it writes late does not undo what the next flush writes. */
/* Whoever brought the page for a writer may hear of it late: the writer has gone on, and has thrown away what it wrote. */
static void not_written_again(void) {
  paged_t paged = open_paged(1, PAGE, 0, OPTIONS());
  uint64_t end = pf_now_ns() + 1000 * MS, wrong = 0;
  while (pf_now_ns() < end && wrong == 0) {
    poke(paged.region, 5, 9);
    EXPECT(discard(paged.region, 0, 1));
    EXPECT_EQ(touch(paged.region, 5), pattern(5));
    wrong += dirty_bits(paged.region);
    EXPECT(invalidate(paged.region, 0, 1));
  }
  EXPECT_EQ(wrong, 0);
  close_paged(&paged);
}

static void late_write(void) {
  for (int by = 0; by < 2; by++) { /* aborted; timed out */
    paged_t paged = open_paged(8, 8 * PAGE, 0, OPTIONS(.timeout_ms = by == 0 ? 20000 : 100));
    pf_region_t *region = paged.region;
    pf_why_t why;
    EXPECT(ensure(region, 2, LONG_MS, false, &why)); /* a busy machine may take longer than the deadline */
    poke(region, 2 * PAGE, 5);
    atomic_store(&paged.writes->silent[PF_ASK_WRITE], 1);
    flushing_t flush, next;
    do { /* and then this one was given up before the store saw it */
      begin_flush(&flush, region, 0, 8);
      EXPECT(by == 1 || wait_until(has_kept, paged.writes, LONG_MS));
      if (by == 0) {
        atomic_store(&flush.job.cancel, 1);
      }
      EXPECT_EQ(end_flush(&flush), by == 0 ? PF_E_ABORTED : PF_E_TIMEOUT);
    } while (atomic_load(&paged.writes->kept_count) == 0);
    EXPECT_EQ(dirty_bits(region), 4);
    poke(region, 2 * PAGE, 6);
    region->timeout_ns = LONG_MS * MS;
    begin_flush(&next, region, 0, 8);
    pf_sleep_until(pf_now_ns() + 30 * MS);
    answer_what_was_kept(paged.writes);
    EXPECT_EQ(end_flush(&next), PF_OK);
    EXPECT_EQ(paged.writes->bytes[2 * PAGE], 6);
    EXPECT_EQ(dirty_bits(region), 0);
    close_paged(&paged);
  }
}

/* --- writing back by a pager ------------------------------------------------------------------------------------------------------------- */

static void eviction_by_pager(void) {
  paged_t paged = open_paged(128, 128 * PAGE, 8, OPTIONS());
  pf_region_t *region = paged.region;
  for (uint64_t page = 0; page < 128; page++) {
    poke(region, page * PAGE + 3, (uint8_t)(page + 1));
  }
  for (uint64_t page = 0; page < 128; page++) {
    EXPECT_EQ(touch(region, page * PAGE + 3), page + 1);
  }
  EXPECT(counter(&region->counters.write_backs) >= 120);
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT_EQ(dirty_in(region, 0, 128).pages, 0);
  for (uint64_t page = 0; page < 128; page++) {
    EXPECT_EQ(paged.writes->bytes[page * PAGE + 3], page + 1);
  }
  close_paged(&paged);
}

/* A page that is being written back, slowly, stops only those that need it. */
typedef struct {
  pf_region_t *region;
  uint64_t page, took;
  _Atomic int done;
} toucher_t;

static void *touch_slowly(void *data) {
  toucher_t *toucher = data;
  uint64_t started = pf_now_ns();
  EXPECT_EQ(checked_byte(toucher->region, toucher->page * PAGE), pattern(toucher->page * PAGE));
  toucher->took = pf_now_ns() - started;
  atomic_store(&toucher->done, 1);
  return NULL;
}

static bool has_touched(void *data) { return atomic_load(&((toucher_t *)data)->done) != 0; }

static void *release_all(void *data) {
  toucher_t *toucher = data;
  release(toucher->region, 0, toucher->region->page_count);
  atomic_store(&toucher->done, 1);
  return NULL;
}

static void *invalidate_all(void *data) {
  toucher_t *toucher = data;
  EXPECT(invalidate(toucher->region, 0, toucher->region->page_count));
  atomic_store(&toucher->done, 1);
  return NULL;
}

static void nobody_waits_for_a_batch(void) {
  void *(*const passes[])(void *) = {release_all, invalidate_all};
  for (int i = 0; i < 2; i++) {
    paged_t paged = open_paged(8, 8 * PAGE, 6, OPTIONS(.on_write = true));
    pf_region_t *region = paged.region;
    EXPECT_EQ(touch(region, 0), pattern(0));
    poke(region, 1 * PAGE, 5); /* runs, so that the walk is at page 0 before it comes to page 5 */
    poke(region, 3 * PAGE, 5);
    poke(region, 5 * PAGE, 5);
    atomic_store(&paged.writes->silent[PF_ASK_WRITE], 1);
    evict_page(region, 5);
    EXPECT_EQ(state_of(region, 5), PF_EVICTING);
    toucher_t passing = {.region = region}, touching = {.region = region};
    pthread_t threads[2];
    must(pthread_create(&threads[0], NULL, passes[i], &passing) == 0, "a thread");
    pf_sleep_until(pf_now_ns() + 20 * MS);
    must(pthread_create(&threads[1], NULL, touch_slowly, &touching) == 0, "a thread");
    EXPECT(wait_until(has_touched, &touching, LONG_MS / 2)); /* page 0 has nothing to do with it; the page that is written takes all of the deadline */
    answer_what_was_kept(paged.writes);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    EXPECT_EQ(touch(region, 5 * PAGE), 5);
    close_paged(&paged);
  }
}

/* The store never answers a write-back: whoever touches the page has it back at the deadline, with what was written to it. */
static void silent_write_back(void) {
  paged_t paged = open_paged(8, 8 * PAGE, 6, OPTIONS(.timeout_ms = 150));
  pf_region_t *region = paged.region;
  pf_why_t why;
  EXPECT(ensure(region, 2, LONG_MS, false, &why)); /* a busy machine may take longer than the deadline */
  poke(region, 2 * PAGE, 5);
  atomic_store(&paged.writes->silent[PF_ASK_WRITE], 1);
  evict_page(region, 2);
  EXPECT_EQ(state_of(region, 2), PF_EVICTING);
  EXPECT(wait_for_orders(paged.writes, PF_ASK_WRITE, 1));
  uint64_t started = pf_now_ns();
  EXPECT_EQ(touch(region, 2 * PAGE), 5);
  EXPECT(pf_now_ns() - started < 150 * MS + SOON);
  region->timeout_ns = LONG_MS * MS;
  EXPECT_EQ(dirty_bits(region), 4);
  poke(region, 2 * PAGE, 6);
  answer_what_was_kept(paged.writes); /* late: it changes nothing here, and in the store what is written next goes over it */
  EXPECT_EQ(touch(region, 2 * PAGE), 6);
  EXPECT_EQ(dirty_bits(region), 4);
  EXPECT_EQ(flush_all(region), PF_OK);
  EXPECT_EQ(paged.writes->bytes[2 * PAGE], 6);
  close_paged(&paged);
}

static void slow_writes(void) {
  paged_t paged = open_paged(64, 64 * PAGE, 8, OPTIONS());
  pf_region_t *region = paged.region;
  atomic_store(&paged.writes->slow_ms[PF_ASK_WRITE], 4);
  uint64_t seed = 77;
  uint8_t last[64];
  for (uint64_t page = 0; page < 64; page++) {
    last[page] = pattern(page * PAGE + 3);
  }
  for (int i = 0; i < 200; i++) {
    uint64_t page = random_next(&seed) % 64;
    EXPECT_EQ(touch(region, page * PAGE + 3), last[page]);
    poke(region, page * PAGE + 3, last[page] = (uint8_t)(i | 1));
    if (i % 50 == 49) {
      EXPECT_EQ(flush_all(region), PF_OK);
    }
  }
  EXPECT_EQ(flush_all(region), PF_OK);
  for (uint64_t page = 0; page < 64; page++) {
    EXPECT_EQ(paged.writes->bytes[page * PAGE + 3], last[page]);
  }
  close_paged(&paged);
}

/* --- deaths --------------------------------------------------------------------------------------------------------------------------------- */

static void dies_in_flush(void) {
  for (unsigned at = PF_ASK_WRITE; at <= PF_ASK_SYNC; at++) {
    paged_t paged = open_paged(40, 40 * PAGE, 0, OPTIONS());
    pf_region_t *region = paged.region;
    for (uint64_t page = 0; page < 40; page += 10) {
      poke(region, page * PAGE, 200);
    }
    uint64_t dirty = dirty_bits(region);
    atomic_store(&paged.writes->kill_at[at], 1);
    EXPECT_EQ(flush_all(region), PF_E_GONE);
    EXPECT_EQ(dirty_bits(region), dirty);
    EXPECT_EQ(flush_all(region), PF_E_GONE);
    EXPECT_EQ(dirty_bits(region), dirty);
    for (uint64_t page = 0; page < 40; page += 10) {
      EXPECT_EQ(touch(region, page * PAGE), 200);
    }
    poke(region, 0, 201); /* still writable where it is resident and dirty */
    EXPECT_EQ(touch(region, 0), 201);
    EXPECT(discard(region, 0, 40));
    EXPECT_EQ(dirty_bits(region), 0);
    close_paged(&paged);
  }
}

static void dies_in_write_back(void) {
  paged_t paged = open_paged(64, 64 * PAGE, 8, OPTIONS(.timeout_ms = 300));
  pf_region_t *region = paged.region;
  pf_why_t why = {0};
  for (uint64_t page = 0; page < 6; page++) {
    EXPECT(ensure(region, page, LONG_MS, false, &why)); /* a busy machine may take longer than the deadline */
    poke(region, page * PAGE, (uint8_t)(page + 1));
  }
  atomic_store(&paged.writes->kill_at[PF_ASK_WRITE], 1);
  bool had = true;
  for (uint64_t page = 10; had && page < 30; page++) {
    had = ensure(region, page, 300, false, &why);
  }
  EXPECT(!had);
  EXPECT(why.code == PF_E_GONE || why.code == PF_E_WRITE || why.code == PF_E_BUDGET || why.code == PF_E_TIMEOUT); /* the last on a busy machine */
  EXPECT_EQ(dirty_bits(region) & 0x3f, 0x3f);
  for (uint64_t page = 0; page < 6; page++) {
    EXPECT_EQ(touch(region, page * PAGE), page + 1);
  }
  EXPECT_EQ(flush_all(region), PF_E_GONE);
  EXPECT_EQ(dirty_bits(region) & 0x3f, 0x3f);
  close_paged(&paged);
}

static void dies_of_on_write(void) {
  paged_t paged = open_paged(8, 8 * PAGE, 0, OPTIONS(.on_write = true));
  uint8_t byte = 7;
  EXPECT_EQ(touch(paged.region, PAGE), pattern(PAGE));
  atomic_store(&paged.writes->kill_at[PF_ASK_ON_WRITE], 1);
  EXPECT_EQ(copy_in(paged.region, PAGE, &byte, 1), PF_E_GONE);
  EXPECT_EQ(touch(paged.region, PAGE), pattern(PAGE));
  EXPECT_EQ(dirty_bits(paged.region), 0);
  EXPECT_EQ(copy_in(paged.region, PAGE, &byte, 1), PF_E_GONE);
  close_paged(&paged);
}

static void *copy_own_byte(void *data) {
  const uint64_t *work = data;
  uint8_t byte = 7;
  return (void *)(uintptr_t)copy_in((pf_region_t *)(uintptr_t)work[0], work[1], &byte, 1);
}

/* The segment is closed while the store is at any of it. */
static void closed_in_the_middle(void) {
  for (unsigned at = PF_ASK_ON_WRITE; at <= PF_ASK_SYNC; at++) {
    paged_t paged = open_paged(8, 8 * PAGE, 6, OPTIONS(.on_write = at == PF_ASK_ON_WRITE));
    uint64_t work[2] = {(uint64_t)(uintptr_t)paged.region, PAGE};
    atomic_store(&paged.writes->silent[at], 1);
    if (at == PF_ASK_ON_WRITE) {
      pthread_t writer;
      void *code = NULL;
      must(pthread_create(&writer, NULL, copy_own_byte, work) == 0, "a thread");
      EXPECT(wait_for_orders(paged.writes, at, 1));
      pf_region_close(paged.region, true);
      pthread_join(writer, &code);
      EXPECT_EQ((uintptr_t)code, PF_E_CLOSED);
      EXPECT_EQ(atomic_load(&paged.writes->asked[PF_ASK_WRITE]), 0);
    } else {
      poke_own_byte(work);
      flushing_t flush;
      begin_flush(&flush, paged.region, 0, 8);
      EXPECT(wait_for_orders(paged.writes, at, 1));
      pf_region_close(paged.region, true);
      EXPECT_EQ(end_flush(&flush), PF_E_CLOSED);
    }
    answer_what_was_kept(paged.writes);
    close_paged(&paged);
  }
}

/* --- a store that uses what it serves ---------------------------------------------------------------------------------------------------------- */

static pf_region_t *own_region;
static _Atomic uint64_t own_took;
static _Atomic int own_code;

/* In the middle of a write it touches the page that it is to write, and asks what is dirty. */
static bool touches_its_own(test_store_t *store, const pf_order_t *order) {
  if (order->access == PF_ASK_WRITE) {
    uint64_t started = pf_now_ns();
    pf_why_t why = {0};
    ensure(own_region, order->offset / PAGE, 20000, false, &why);
    atomic_store(&own_code, (int)why.code);
    dirty_in(own_region, 0, own_region->page_count);
    discard(own_region, 7, 8);
    atomic_store(&own_took, pf_now_ns() - started + 1);
  }
  return serve_writes(store, order);
}

static bool own_is_done(void *data) { return atomic_load((_Atomic uint64_t *)data) != 0; }

static void a_store_that_touches(void) {
  for (int flushes = 0; flushes < 2; flushes++) {
    paged_t paged = open_paged(8, 8 * PAGE, 6, OPTIONS());
    own_region = paged.region;
    poke(paged.region, 2 * PAGE, 5);
    atomic_store(&own_took, 0);
    atomic_store(&own_code, 0);
    paged.writes->store.serve = touches_its_own;
    if (flushes) {
      EXPECT_EQ(flush_all(paged.region), PF_OK);
    } else {
      evict_page(paged.region, 2);
    }
    EXPECT(wait_until(own_is_done, &own_took, 2 * LONG_MS));
    EXPECT(atomic_load(&own_took) < SOON);
    EXPECT_EQ(atomic_load(&own_code), flushes ? PF_OK : PF_E_DEADLOCK);
    EXPECT_EQ(touch(paged.region, 2 * PAGE), 5);
    EXPECT_EQ(paged.writes->bytes[2 * PAGE], 5);
    close_paged(&paged);
  }
}

/* ------------------------------------------------------------------------------------------------------------------------------------------------ */

static void all(void) {
  test_here("a store is asked before the first write to a clean page, once", asked_once);
  test_here("a store is not asked about what it does not have", not_asked_behind_the_end);
  test_here("a store is asked once though many threads write at once", asked_once_by_many);
  test_here("a refused write leaves the page readable and clean", refused);
  test_here("a refused raw write ends the process with a report", refused_raw);
  test_here("a page that failed says why it did, whatever failed after it", reasons_of_its_own);
  test_here("a store that is silent about a write lets it go at the deadline", silent_on_write);
  test_here("an invalidated page goes although its last pin goes while the store is asked about it", unpinned_while_asked);
  test_here("a pager writes what a flush asks it to, many pages at once", flush_by_pager);
  test_here("a pager that fails a write, or the sync, leaves everything dirty", flush_fails_at_the_nth);
  test_here("a page that is discarded while a flush holds it is gone when discard returns", discarded_while_flushed);
  test_here("a page that is staged before its flush is confirmed is clean then", staged_while_flushed);
  test_here("a write that comes late does not undo a later one", late_write);
  test_here("a pager writes back what is evicted", eviction_by_pager);
  test_here("release and invalidate keep no page while they wait for another", nobody_waits_for_a_batch);
  test_here("a page whose write-back is never answered can be had back", silent_write_back);
  test_here("slow writes lose nothing", slow_writes);
  test_here("what is thrown away is not written again by whoever brought the page", not_written_again);
  test_here("a pager that dies in a flush leaves everything dirty", dies_in_flush);
  test_here("a pager that dies in a write-back leaves everything dirty", dies_in_write_back);
  test_here("a pager that dies when asked leaves the page readable", dies_of_on_write);
  test_here("a segment that is closed in the middle leaves nothing behind", closed_in_the_middle);
  test_here("a store that touches what it is to write does not wait for itself", a_store_that_touches);
}

static void child(const char *name) {
  child_refused(strcmp(name, "refused-zero") == 0);
}

int main(int count, char **arguments) { return run_modes(count, arguments, all, child); }
