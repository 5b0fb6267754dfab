/* sanitizers: address,thread,none */
/* Loads in the background: all of a range, in parallel, cancelled, failed; and no job is ever forgotten. */
#include "support.h"

typedef struct {
  _Atomic int done;
  _Atomic unsigned progress;
  pf_job_t job;
} load_t;

static load_t *load_of(pf_job_t *job) { return (load_t *)((char *)job - offsetof(load_t, job)); }
static void on_done(pf_job_t *job) { atomic_store(&load_of(job)->done, 1); }
static void on_progress(pf_job_t *job) { atomic_fetch_add(&load_of(job)->progress, 1); }
static bool is_done(void *data) { return atomic_load(&((load_t *)data)->done) != 0; }
static bool no_threads(void *unused) {
  (void)unused;
  return pf_loader_threads() == 0;
}

static void submit(load_t *load, pf_region_t *region, uint64_t first, uint64_t end, bool pin) {
  *load = (load_t){.job = {.region = region, .first = first, .end = end, .pin = pin, .done = on_done, .progress = on_progress}};
  if (pin) {
    EXPECT_EQ(pf_pin_add(region, first, end), 0);
  }
  EXPECT_EQ(pf_loader_submit(&load->job), 0);
}

static void loads_a_range(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, file_source(200 * PAGE), 200 * PAGE, OPTIONS());
  load_t load;
  submit(&load, region, 10, 150, false);
  EXPECT(wait_until(is_done, &load, 5000));
  EXPECT_EQ(load.job.why.code, PF_OK);
  EXPECT_EQ(atomic_load(&load.job.pages_done), 140);
  for (uint64_t page = 0; page < 200; page++) {
    EXPECT_EQ(state_of(region, page) == PF_PRESENT, page >= 10 && page < 150);
  }
  EXPECT_EQ(counter(&region->counters.faults), 0);
  EXPECT_EQ(first_difference(region, 10 * PAGE, 150 * PAGE, 0, 200 * PAGE), 150 * PAGE);
  EXPECT_EQ(counter(&region->counters.faults), 0);
  EXPECT(close_region(region));
}

static _Atomic int silent_for;

static bool mostly_silent(test_store_t *store, const pf_order_t *order) {
  (void)store;
  return order->offset != 0 || atomic_load(&silent_for) == 0;
}

/* One job hangs in its store; those behind it do not wait for it, although a thread was idle for only one of them. */
static void in_parallel(pf_backend_t backend) {
  test_store_t store = {.serve = mostly_silent};
  atomic_store(&silent_for, 1);
  start_store(&store);
  pf_region_t *slow = open_region(backend, pager_source(&store), 8 * PAGE, OPTIONS());
  pf_region_t *fast = open_region(backend, memory_source(8 * PAGE), 8 * PAGE, OPTIONS());
  load_t first, stuck, quick[3];
  submit(&first, fast, 0, 1, false);
  EXPECT(wait_until(is_done, &first, 5000)); /* from here a thread is idle */
  submit(&stuck, slow, 0, 1, false);
  for (int i = 0; i < 3; i++) {
    submit(&quick[i], fast, 1, 8, false);
  }
  for (int i = 0; i < 3; i++) {
    EXPECT(wait_until(is_done, &quick[i], 3000));
    EXPECT_EQ(quick[i].job.why.code, PF_OK);
  }
  EXPECT(!is_done(&stuck));
  atomic_store(&stuck.job.cancel, 1);
  EXPECT(wait_until(is_done, &stuck, 3000));
  EXPECT_EQ(stuck.job.why.code, PF_E_ABORTED);
  EXPECT(close_region(slow));
  EXPECT(close_region(fast));
  stop_store(&store);
}

static void failed_pin(pf_backend_t backend) {
  pf_source_t source = file_source(4 * PAGE);
  source.check = false;
  pf_region_t *region = open_region(backend, source, 16 * PAGE, OPTIONS(.store_length = 16 * PAGE)); /* the file is shorter than it should be */
  load_t load;
  submit(&load, region, 2, 10, true);
  EXPECT(wait_until(is_done, &load, 5000));
  EXPECT_EQ(load.job.why.code, PF_E_SHORT);
  EXPECT_EQ(load.job.failed_page, 4);
  EXPECT_EQ(atomic_load(&load.job.pages_done), 2);
  EXPECT_EQ(counter(&region->counters.pinned_pages), 0);
  EXPECT_EQ(pf_region_release(region, 0, 16), 2 * PAGE);
  EXPECT(close_region(region));
}

static void closed_meanwhile(pf_backend_t backend) {
  test_store_t store = {.serve = mostly_silent};
  atomic_store(&silent_for, 1);
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), 8 * PAGE, OPTIONS());
  load_t load;
  submit(&load, region, 0, 8, false);
  pf_sleep_until(pf_now_ns() + 20 * MS);
  pf_region_close(region, true);
  EXPECT(wait_until(is_done, &load, 3000));
  EXPECT_EQ(load.job.why.code, PF_E_CLOSED);
  EXPECT(close_region(region));
  stop_store(&store);
}

/* Submitted in the very moment in which the last idle thread leaves. */
static void none_forgotten(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(8 * PAGE), 8 * PAGE, OPTIONS());
  for (int i = 0; i < 16; i++) {
    load_t load;
    submit(&load, region, 0, 8, false);
    EXPECT(wait_until(is_done, &load, 3000));
    pf_sleep_until(pf_now_ns() + 199 * MS + (uint64_t)i * MS / 10); /* an idle thread leaves after 200 ms */
  }
  EXPECT(wait_until(no_threads, NULL, 3000));
  EXPECT(close_region(region));
}

/* Many from many threads. */
typedef struct {
  pthread_t thread;
  pf_region_t *region;
  uint64_t seed;
} crowd_t;

static void *submit_many(void *data) {
  crowd_t *crowd = data;
  for (int i = 0; i < (SLOW ? 60 : 200); i++) {
    load_t load;
    uint64_t first = random_next(&crowd->seed) % 60;
    submit(&load, crowd->region, first, first + 4, i % 3 == 0);
    EXPECT(wait_until(is_done, &load, 5000));
    EXPECT_EQ(load.job.why.code, PF_OK);
    if (i % 3 == 0) {
      for (uint64_t page = first; page < first + 4; page++) {
        EXPECT_EQ(state_of(crowd->region, page), PF_PRESENT);
      }
      pf_pin_remove(crowd->region, first, first + 4);
    }
  }
  return NULL;
}

static void from_many_threads(pf_backend_t backend) {
  pf_budget_t *budget;
  must(pf_budget_create(48 * PAGE, &budget) == 0, "a budget");
  pf_region_t *region = open_region(backend, memory_source(64 * PAGE), 64 * PAGE, OPTIONS(.budget = budget));
  crowd_t crowds[4];
  for (uint64_t i = 0; i < 4; i++) {
    crowds[i] = (crowd_t){.region = region, .seed = i + 1};
    must(pthread_create(&crowds[i].thread, NULL, submit_many, &crowds[i]) == 0, "a thread");
  }
  for (int i = 0; i < 4; i++) {
    pthread_join(crowds[i].thread, NULL);
  }
  EXPECT_EQ(counter(&region->counters.pinned_pages), 0);
  EXPECT(close_region(region));
  pf_budget_drop(budget);
}

int main(void) {
  test_each("a load brings all pages of a range without a fault", loads_a_range);
  test_each("jobs do not wait for one that hangs in its store, and that one can be cancelled", in_parallel);
  test_each("a pin that fails pins nothing and names the page", failed_pin);
  test_each("closing ends a load", closed_meanwhile);
  test_each("a job is done although the last idle thread leaves in that moment", none_forgotten);
  test_each("loads and pins of four threads keep each other's pages", from_many_threads);
  return summary();
}
