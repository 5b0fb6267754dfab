/* sanitizers: address,thread,none */
/* Working sets: the order of first touch is noted, by any thread, and pages are loaded ahead in a given order, behind what is touched. */
#include "support.h"
#include "touched.h"

typedef struct {
  _Atomic int done;
  _Atomic unsigned progress;
  pf_job_t job;
  uint32_t pairs[64];
} replay_t;

static replay_t *replay_of(pf_job_t *job) { return (replay_t *)((char *)job - offsetof(replay_t, job)); }
static void on_done(pf_job_t *job) { atomic_store(&replay_of(job)->done, 1); }
static void on_progress(pf_job_t *job) { atomic_fetch_add(&replay_of(job)->progress, 1); }
static bool is_done(void *data) { return atomic_load(&((replay_t *)data)->done) != 0; }

static void submit(replay_t *replay, pf_region_t *region, size_t count, const uint32_t *pairs) {
  *replay = (replay_t){.job = {.region = region, .kind = PF_JOB_REPLAY, .len = count * 8, .done = on_done, .progress = on_progress}};
  memcpy(replay->pairs, pairs, count * 8);
  replay->job.bytes = (uint8_t *)replay->pairs;
  EXPECT_EQ(pf_loader_submit(&replay->job), 0);
}
#define SUBMIT(replay, region, ...) submit(replay, region, sizeof((uint32_t[]){__VA_ARGS__}) / 8, (uint32_t[]){__VA_ARGS__})

#define MOST 4096
typedef struct {
  uint32_t count, pages[MOST];
  double at_us[MOST];
  uint64_t missed;
} noted_t;

static noted_t noted;

static void read_noted(const pf_region_t *region) {
  noted.count = pf_touched_read(region, noted.pages, noted.at_us, MOST, &noted.missed);
  for (uint32_t i = 1; i < noted.count; i++) {
    EXPECT(noted.at_us[i] >= 0);
  }
}

static void expect_noted(const pf_region_t *region, uint32_t count, const uint32_t *pages, int line) {
  read_noted(region);
  expect_at(noted.count == count, line, "the number of pages noted", noted.count, count, true);
  for (uint32_t i = 0; i < count && i < noted.count; i++) {
    expect_at(noted.pages[i] == pages[i], line, "a page noted", noted.pages[i], pages[i], true);
  }
}
#define EXPECT_NOTED(region, ...) expect_noted(region, sizeof((uint32_t[]){__VA_ARGS__}) / 4, (uint32_t[]){__VA_ARGS__}, __LINE__)

static pf_budget_t *make_budget(size_t limit) {
  pf_budget_t *budget = NULL;
  must(pf_budget_create(limit, &budget) == 0, "a budget");
  return budget;
}

/* --- noting --------------------------------------------------------------------------------------------------------------- */

static void notes(pf_region_t *region) {
  EXPECT_EQ(pf_touched_count(region), 0);
  EXPECT_EQ(pf_touched_start(region, 100), 0);
  EXPECT_EQ(pf_touched_start(region, 100), -EEXIST);
  static const uint8_t order[] = {5, 3, 5, 9, 3, 0, 63};
  for (size_t i = 0; i < sizeof order; i++) {
    EXPECT_EQ(touch(region, order[i] * PAGE), pattern(order[i] * PAGE));
  }
  EXPECT_NOTED(region, 5, 3, 9, 0, 63);
  for (uint32_t i = 1; i < noted.count; i++) {
    EXPECT(noted.at_us[i] >= noted.at_us[i - 1]);
  }
  EXPECT_EQ(checked_byte(region, 7 * PAGE), pattern(7 * PAGE));
  EXPECT_NOTED(region, 5, 3, 9, 0, 63, 7);
  EXPECT_EQ(pf_region_release(region, 0, 64), 6 * PAGE);
  touch(region, 9 * PAGE);
  touch(region, 10 * PAGE);
  EXPECT_NOTED(region, 5, 3, 9, 0, 63, 7, 10);
  EXPECT_EQ(noted.missed, 0);
  EXPECT(close_region(region));
}

static void notes_of_c(pf_backend_t backend) { notes(open_region(backend, file_source(64 * PAGE), 64 * PAGE, OPTIONS())); }

static void notes_of_a_pager(pf_backend_t backend) {
  test_store_t store = {0};
  start_store(&store);
  notes(open_region(backend, pager_source(&store), 64 * PAGE, OPTIONS()));
  stop_store(&store);
}

static void read_ahead(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(64 * PAGE), 64 * PAGE, OPTIONS(.readahead = (int64_t)(3 * PAGE)));
  EXPECT_EQ(pf_touched_start(region, 100), 0);
  touch(region, 20 * PAGE);
  touch(region, 2 * PAGE);
  EXPECT_NOTED(region, 20, 21, 22, 23, 2, 3, 4, 5);
  EXPECT(close_region(region));
}

static void no_more_than_asked(pf_backend_t backend) {
  unsigned before = count_mappings();
  for (int round = 0; round < 60; round++) {
    pf_region_t *region = open_region(backend, memory_source(64 * PAGE), 64 * PAGE, OPTIONS());
    EXPECT_EQ(pf_touched_start(region, 3), 0);
    for (uint64_t page = 20; page < 30; page++) {
      touch(region, page * PAGE);
    }
    EXPECT_NOTED(region, 20, 21, 22);
    EXPECT_EQ(noted.missed, 7);
    EXPECT(close_region(region));
  }
  EXPECT(count_mappings() <= before + 40); /* service threads come and go; a leak would be one a round */
}

static bool load_done(void *data) { return is_done(data); }

static void not_of_loads(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(64 * PAGE), 64 * PAGE, OPTIONS());
  EXPECT_EQ(pf_touched_start(region, 100), 0);
  replay_t load = {.job = {.region = region, .first = 8, .end = 20, .kind = PF_JOB_LOAD, .done = on_done}};
  EXPECT_EQ(pf_loader_submit(&load.job), 0);
  EXPECT(wait_until(load_done, &load, 20000));
  touch(region, 10 * PAGE);
  touch(region, 30 * PAGE);
  EXPECT_NOTED(region, 30);
  EXPECT(close_region(region));
}

static void in_the_budget(pf_backend_t backend) {
  pf_budget_t *budget = make_budget(1 << 20);
  pf_region_t *region = open_region(backend, memory_source(2000 * PAGE), 2000 * PAGE, OPTIONS(.budget = budget));
  pf_budget_drop(budget);
  EXPECT_EQ(pf_touched_start(region, 2000), 0);
  pf_budget_numbers_t numbers;
  for (uint64_t i = 0; i < 4000; i++) { /* each twice, and what was touched first is gone by then */
    EXPECT_EQ(touch(region, i % 2000 * PAGE), pattern(i % 2000 * PAGE));
  }
  pf_budget_numbers(region->budget, &numbers);
  EXPECT(numbers.used + pf_touched_overhead(region) <= numbers.limit);
  EXPECT(pf_touched_overhead(region) >= (int64_t)(2000 * 16));
  read_noted(region);
  EXPECT_EQ(noted.count, 2000);
  for (uint32_t i = 0; i < noted.count; i++) {
    EXPECT_EQ(noted.pages[i], i);
  }
  EXPECT(close_region(region));
}

/* --- loading ahead --------------------------------------------------------------------------------------------------------- */

static void replays(pf_region_t *region, uint64_t reads) {
  replay_t replay;
  SUBMIT(&replay, region, 40, 8, 3, 1, 10, 2, 41, 2);
  EXPECT(wait_until(is_done, &replay, 20000));
  EXPECT_EQ(replay.job.why.code, PF_OK);
  EXPECT_EQ(atomic_load(&replay.job.pages_done), 13);
  for (uint64_t page = 0; page < 64; page++) {
    EXPECT_EQ(state_of(region, page) == PF_PRESENT, page == 3 || page == 10 || page == 11 || (page >= 40 && page < 48));
  }
  if (reads != 0) {
    EXPECT_EQ(counter(&region->counters.store_reads), reads);
  }
  EXPECT_EQ(counter(&region->counters.readahead_pages), 11);
  EXPECT_EQ(first_difference(region, 40 * PAGE, 48 * PAGE, 0, 64 * PAGE), 48 * PAGE);
  EXPECT_EQ(counter(&region->counters.faults), 0);
  EXPECT_EQ(first_difference(region, 0, 64 * PAGE, 0, 64 * PAGE), 64 * PAGE);
  EXPECT(close_region(region));
}

static void replays_c(pf_backend_t backend) { replays(open_region(backend, file_source(64 * PAGE), 64 * PAGE, OPTIONS()), 3); }

static void replays_a_pager(pf_backend_t backend) {
  test_store_t store = {0};
  start_store(&store);
  replays(open_region(backend, pager_source(&store), 64 * PAGE, OPTIONS()), 0);
  stop_store(&store);
}

static void behind_the_end(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(6 * PAGE), 8 * PAGE, OPTIONS(.store_length = 6 * PAGE));
  replay_t replay;
  SUBMIT(&replay, region, 4, 4, 4, 100, 77, 3, UINT32_MAX, UINT32_MAX);
  EXPECT(wait_until(is_done, &replay, 20000));
  EXPECT_EQ(replay.job.why.code, PF_OK);
  EXPECT_EQ(counter(&region->counters.loads), 4);
  EXPECT_EQ(first_difference(region, 0, 8 * PAGE, 0, 6 * PAGE), 8 * PAGE);
  EXPECT(close_region(region));
}

/* What cannot be had is left for its own touch, and what follows is loaded. */
static void not_to_be_had(pf_backend_t backend) {
  char path[64];
  make_path(path);
  write_file(path, 0, 4 * PAGE);
  pf_source_t source = file_source_at(path, 0);
  source.check = false;
  pf_region_t *region = open_region(backend, source, 16 * PAGE, OPTIONS());
  replay_t replay;
  SUBMIT(&replay, region, 6, 2, 1, 1);
  EXPECT(wait_until(is_done, &replay, 20000));
  EXPECT_EQ(replay.job.why.code, PF_OK);
  EXPECT_EQ(state_of(region, 6), PF_ABSENT);
  EXPECT_EQ(state_of(region, 7), PF_ABSENT);
  EXPECT_EQ(state_of(region, 1), PF_PRESENT);
  EXPECT_EQ(counter(&region->counters.failures), 0);
  write_file(path, 0, 16 * PAGE);
  unlink(path);
  EXPECT_EQ(touch(region, 6 * PAGE), pattern(6 * PAGE));
  EXPECT(close_region(region));
}

/* Full as the budget is, nothing leaves it for what is loaded ahead. */
static void within_the_budget(pf_backend_t backend) {
  pf_budget_t *budget = make_budget(1 << 20);
  pf_region_t *region = open_region(backend, memory_source(2000 * PAGE), 2000 * PAGE, OPTIONS(.budget = budget));
  pf_budget_drop(budget);
  for (uint64_t page = 1900; page < 1950; page++) {
    touch(region, page * PAGE);
  }
  replay_t replay;
  SUBMIT(&replay, region, 0, 1500);
  EXPECT(wait_until(is_done, &replay, 20000));
  EXPECT_EQ(replay.job.why.code, PF_OK);
  EXPECT_EQ(counter(&region->counters.evictions), 0);
  EXPECT(atomic_load(&replay.job.pages_done) < 256);
  EXPECT(atomic_load(&replay.job.pages_done) > 50);
  for (uint64_t page = 1900; page < 1950; page++) {
    EXPECT_EQ(state_of(region, page), PF_PRESENT);
  }
  EXPECT(close_region(region));
}

static _Atomic uint32_t ahead_seen;

static bool never_ahead(test_store_t *store, const pf_order_t *order) {
  (void)store;
  if (order->access == PF_ASK_AHEAD) {
    atomic_fetch_add(&ahead_seen, 1);
    return false; /* it never comes */
  }
  return true;
}

static bool some_asked(void *unused) {
  (void)unused;
  return atomic_load(&ahead_seen) >= PF_PAGER_SLOTS / 2;
}

/* A replay whose store has as many orders of pages ahead as it gets, and answers none. */
static pf_region_t *begin_stuck(pf_backend_t backend, test_store_t *store, replay_t *replay) {
  *store = (test_store_t){.serve = never_ahead};
  atomic_store(&ahead_seen, 0);
  start_store(store);
  pf_region_t *region = open_region(backend, pager_source(store), 1000 * PAGE, OPTIONS());
  SUBMIT(replay, region, 0, 900);
  EXPECT(wait_until(some_asked, NULL, 20000));
  return region;
}

/* What is touched comes all the same, and the end comes at once. */
static void demand_first(pf_backend_t backend) {
  test_store_t store;
  replay_t replay;
  pf_region_t *region = begin_stuck(backend, &store, &replay);
  for (uint64_t page = 900; page < 1000; page++) {
    EXPECT_EQ(touch(region, page * PAGE), pattern(page * PAGE));
  }
  EXPECT(!is_done(&replay));
  atomic_store(&replay.job.cancel, 1);
  EXPECT(wait_until(is_done, &replay, 20000));
  EXPECT_EQ(replay.job.why.code, PF_E_ABORTED);
  EXPECT(close_region(region));
  stop_store(&store);
}

static void closed_meanwhile(pf_backend_t backend) {
  test_store_t store;
  replay_t replay;
  pf_region_t *region = begin_stuck(backend, &store, &replay);
  pf_region_close(region, true);
  EXPECT(wait_until(is_done, &replay, 20000));
  EXPECT_EQ(replay.job.why.code, PF_E_CLOSED);
  EXPECT(close_region(region));
  stop_store(&store);
}

/* --- all at once -------------------------------------------------------------------------------------------------------------- */

#define CROWD 4
#define CROWD_PAGES 2000
typedef struct {
  pf_region_t *region;
  uint64_t seed;
} toucher_t;

static _Atomic int touching;

static void *touch_all(void *data) {
  toucher_t *toucher = data;
  uint64_t start = random_next(&toucher->seed) % CROWD_PAGES;
  for (uint64_t i = 0; i < CROWD_PAGES; i++) {
    uint64_t at = (start + i * 7) % CROWD_PAGES * PAGE;
    EXPECT_EQ(touch(toucher->region, at), pattern(at));
  }
  atomic_fetch_sub(&touching, 1);
  return NULL;
}

static void crowd(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, file_source(CROWD_PAGES * PAGE), CROWD_PAGES * PAGE, OPTIONS());
  EXPECT_EQ(pf_touched_start(region, MOST), 0);
  pthread_t threads[CROWD];
  toucher_t touchers[CROWD];
  replay_t replay;
  SUBMIT(&replay, region, 1000, 500, 0, 300, 1800, 100);
  atomic_store(&touching, CROWD);
  for (size_t i = 0; i < CROWD; i++) {
    touchers[i] = (toucher_t){.region = region, .seed = 77 + i};
    must(pthread_create(&threads[i], NULL, touch_all, &touchers[i]) == 0, "a thread");
  }
  read_noted(region);
  while (atomic_load(&touching) > 0) { /* there is room for all of them: what is noted right now has not been missed */
    pf_touched_read(region, noted.pages, noted.at_us, 0, &noted.missed);
    EXPECT_EQ(noted.missed, 0);
  }
  for (size_t i = 0; i < CROWD; i++) {
    pthread_join(threads[i], NULL);
  }
  EXPECT(wait_until(is_done, &replay, 20000));
  read_noted(region);
  static bool seen[CROWD_PAGES];
  memset(seen, 0, sizeof seen);
  for (uint32_t i = 0; i < noted.count; i++) {
    EXPECT(!seen[noted.pages[i]]);
    seen[noted.pages[i]] = true;
  }
  EXPECT_EQ(counter(&region->counters.loads), CROWD_PAGES);
  EXPECT_EQ(counter(&region->counters.readahead_pages) + noted.count, CROWD_PAGES);
  EXPECT(close_region(region));
}

int main(void) {
  test_each("pages are noted in the order in which they are first needed", notes_of_c);
  test_each("so they are where a pager brings them", notes_of_a_pager);
  test_each("what is read ahead for a thread is noted behind what it touched", read_ahead);
  test_each("no more is noted than was asked for, and nothing is left of it", no_more_than_asked);
  test_each("what a background load brings is not noted", not_of_loads);
  test_each("notes count in the budget, and a page that comes again is not noted again", in_the_budget);
  test_each("pages are loaded ahead, neighbours in one read", replays_c);
  test_each("pages of a pager are loaded ahead", replays_a_pager);
  test_each("pages that there are not are passed over", behind_the_end);
  test_each("a page that cannot be had ahead is left for its own touch", not_to_be_had);
  test_each("loading ahead evicts nothing", within_the_budget);
  test_each("what is touched does not wait for what is loaded ahead", demand_first);
  test_each("loading ahead ends when the segment is closed", closed_meanwhile);
  test_each("threads that touch everything while it is loaded ahead note each page once", crowd);
  return summary();
}
