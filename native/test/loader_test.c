/* sanitizers: address,thread,none */
/* Loads in the background: all of a range, in parallel, cancelled, failed; and no job is ever forgotten. */
#include "support.h"

#include <dlfcn.h>

/* --- threads that cannot be had, or whose makers are held up ----------------------------------------------------------------- */

static _Atomic int refused, asking;  /* so many threads are refused, when all of them are asked for */
static _Atomic uint64_t held_up_ms;  /* when a thread is there already, and its maker does not know yet */

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*body)(void *), void *data) {
  int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  void *found = dlsym(RTLD_NEXT, "pthread_create");
  must(found != NULL, "pthread_create");
  memcpy(&real, &found, sizeof real);
  if (atomic_load(&refused) > 0) {
    atomic_fetch_add(&asking, 1);
    while (atomic_load(&asking) < atomic_load(&refused)) {
      pf_sleep_until(pf_now_ns() + MS);
    }
    return EAGAIN;
  }
  int err = real(thread, attr, body, data);
  pf_sleep_until(pf_now_ns() + atomic_load(&held_up_ms) * MS);
  return err;
}

/* --- jobs -------------------------------------------------------------------------------------------------------------------- */

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

static int try_submit(load_t *load, pf_region_t *region, uint64_t first, uint64_t end, bool pin) {
  *load = (load_t){.job = {.region = region, .first = first, .end = end, .kind = pin ? PF_JOB_PIN : PF_JOB_LOAD, .done = on_done, .progress = on_progress}};
  if (pin) {
    EXPECT_EQ(pf_pin_add(region, first, end), 0);
  }
  return pf_loader_submit(&load->job);
}

static void submit(load_t *load, pf_region_t *region, uint64_t first, uint64_t end, bool pin) {
  EXPECT_EQ(try_submit(load, region, first, end, pin), 0);
}

static void loads_a_range(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, file_source(200 * PAGE), 200 * PAGE, OPTIONS());
  load_t load;
  submit(&load, region, 10, 150, false);
  EXPECT(wait_until(is_done, &load, LONG_MS));
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
  EXPECT(wait_until(is_done, &first, LONG_MS)); /* from here a thread is idle */
  submit(&stuck, slow, 0, 1, false);
  for (int i = 0; i < 3; i++) {
    submit(&quick[i], fast, 1, 8, false);
  }
  for (int i = 0; i < 3; i++) {
    EXPECT(wait_until(is_done, &quick[i], LONG_MS));
    EXPECT_EQ(quick[i].job.why.code, PF_OK);
  }
  EXPECT(!is_done(&stuck));
  atomic_store(&stuck.job.cancel, 1);
  EXPECT(wait_until(is_done, &stuck, LONG_MS));
  EXPECT_EQ(stuck.job.why.code, PF_E_ABORTED);
  EXPECT(close_region(slow));
  EXPECT(close_region(fast));
  stop_store(&store);
}

#define MOST_AT_ONCE 8

/* All threads are busy for long: who is aborted before its turn ends at once, wherever it is in the queue, and the others keep their turns. */
static void aborted_in_the_queue(pf_backend_t backend) {
  test_store_t store = {.serve = mostly_silent};
  atomic_store(&silent_for, 1);
  start_store(&store);
  pf_region_t *slow = open_region(backend, pager_source(&store), 8 * PAGE, OPTIONS());
  pf_region_t *fast = open_region(backend, memory_source(8 * PAGE), 8 * PAGE, OPTIONS());
  for (int round = 0; round < 3; round++) { /* the first, one in the middle, the last */
    load_t stuck[MOST_AT_ONCE], queued[3];
    for (int i = 0; i < MOST_AT_ONCE; i++) {
      submit(&stuck[i], slow, 0, 1, false);
    }
    for (int i = 0; i < 3; i++) {
      submit(&queued[i], fast, 0, 8, true);
    }
    uint64_t pinned = counter(&fast->counters.pinned_pages);
    EXPECT(pf_loader_withdraw(&queued[round].job));
    EXPECT(!pf_loader_withdraw(&queued[round].job));
    pf_loader_abort(&queued[round].job);
    EXPECT(is_done(&queued[round]));
    EXPECT_EQ(queued[round].job.why.code, PF_E_ABORTED);
    EXPECT_EQ(counter(&fast->counters.pinned_pages), pinned);
    for (int i = 0; i < MOST_AT_ONCE; i++) {
      EXPECT(!is_done(&stuck[i]));
      atomic_store(&stuck[i].job.cancel, 1);
    }
    for (int i = 0; i < MOST_AT_ONCE; i++) {
      EXPECT(wait_until(is_done, &stuck[i], LONG_MS));
      EXPECT_EQ(stuck[i].job.why.code, PF_E_ABORTED);
    }
    for (int i = 0; i < 3; i++) {
      EXPECT(wait_until(is_done, &queued[i], LONG_MS));
      if (i != round) {
        EXPECT_EQ(queued[i].job.why.code, PF_OK);
        EXPECT(!pf_loader_withdraw(&queued[i].job));
        pf_pin_remove(fast, 0, 8);
      }
    }
    EXPECT_EQ(counter(&fast->counters.pinned_pages), 0);
  }
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
  EXPECT(wait_until(is_done, &load, LONG_MS));
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
  EXPECT(wait_until(is_done, &load, LONG_MS));
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
    EXPECT(wait_until(is_done, &load, LONG_MS));
    pf_sleep_until(pf_now_ns() + 199 * MS + (uint64_t)i * MS / 10); /* an idle thread leaves after 200 ms */
  }
  EXPECT(wait_until(no_threads, NULL, LONG_MS));
  EXPECT(close_region(region));
}

/* On a busy machine whoever makes a thread goes on late: by then the thread may have found nothing to do, and left. */
static void maker_held_up(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(8 * PAGE), 8 * PAGE, OPTIONS());
  load_t load;
  EXPECT(wait_until(no_threads, NULL, LONG_MS));
  atomic_store(&held_up_ms, 500);
  submit(&load, region, 0, 8, false);
  atomic_store(&held_up_ms, 0);
  EXPECT(wait_until(is_done, &load, LONG_MS));
  EXPECT_EQ(load.job.why.code, PF_OK);
  EXPECT(close_region(region));
}

typedef struct {
  pthread_t thread;
  pf_region_t *region;
  _Atomic int *go;
  load_t load;
  int err;
} refused_t;

static void *submit_refused(void *data) {
  refused_t *one = data;
  while (!atomic_load(one->go)) {
    pf_sleep_until(pf_now_ns() + MS);
  }
  one->err = try_submit(&one->load, one->region, 0, 8, true);
  return NULL;
}

/* Two threads are asked for at the same time, and neither can be had: who hears of it last is told, and the other one's job ends as failed. */
static void no_thread(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(8 * PAGE), 8 * PAGE, OPTIONS());
  _Atomic int go = 0;
  refused_t both[2];
  EXPECT(wait_until(no_threads, NULL, LONG_MS));
  for (int i = 0; i < 2; i++) {
    both[i] = (refused_t){.region = region, .go = &go};
    must(pthread_create(&both[i].thread, NULL, submit_refused, &both[i]) == 0, "a thread");
  }
  atomic_store(&asking, 0);
  atomic_store(&refused, 2);
  atomic_store(&go, 1);
  for (int i = 0; i < 2; i++) {
    pthread_join(both[i].thread, NULL);
  }
  atomic_store(&refused, 0);
  EXPECT_EQ((both[0].err == 0) + (both[1].err == 0), 1);
  for (int i = 0; i < 2; i++) {
    EXPECT(both[i].err == 0 || both[i].err == -EAGAIN);
    EXPECT_EQ(is_done(&both[i].load), both[i].err == 0);
    if (both[i].err == 0) {
      EXPECT_EQ(both[i].load.job.why.code, PF_E_NO_MEMORY);
    } else {
      pf_pin_remove(region, 0, 8); /* who is refused undoes his own */
    }
  }
  EXPECT_EQ(pf_loader_threads(), 0);
  EXPECT_EQ(counter(&region->counters.pinned_pages), 0);
  load_t load;
  submit(&load, region, 0, 8, false); /* it was not for ever */
  EXPECT(wait_until(is_done, &load, LONG_MS));
  EXPECT_EQ(load.job.why.code, PF_OK);
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
    EXPECT(wait_until(is_done, &load, LONG_MS));
    EXPECT_EQ(load.job.why.code, PF_OK);
    if (i % 3 == 0) {
      for (uint64_t page = first; page < first + 4; page++) {
        unsigned state = state_of(crowd->region, page); /* INSTALLING: another pin opens it once more (pf_pages_keep_open); it stays open meanwhile */
        EXPECT(state == PF_PRESENT || state == PF_INSTALLING);
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
  test_each("a job that is aborted before its turn ends at once", aborted_in_the_queue);
  test_each("a pin that fails pins nothing and names the page", failed_pin);
  test_each("closing ends a load", closed_meanwhile);
  test_on(PF_BACKEND_MPROTECT, "a job is done although the last idle thread leaves in that moment", none_forgotten);
  test_on(PF_BACKEND_MPROTECT, "a job is done although whoever makes its thread is held up", maker_held_up);
  test_on(PF_BACKEND_MPROTECT, "jobs for which no thread can be had end, each in its way", no_thread);
  test_each("loads and pins of four threads keep each other's pages", from_many_threads);
  return summary();
}
