/* sanitizers: address,thread,none */
/*
 * What was invalidated or discarded while it was pinned goes with its pin, also where somebody else has the page at that very moment: a thread that faulted although
 * the page is there, one whose write is let through, an eviction that stages it.
 */
#include "support.h"

#define ROUNDS (SLOW ? 3000 : 20000)

static _Atomic int stop;

static bool is_fresh(void *data) {
  const pf_region_t *region = data;
  return !(atomic_load(&region->states[0]) & PF_STALE);
}

static void pin(pf_region_t *region, uint64_t page) {
  sigset_t before;
  pf_mask_signals(&before);
  EXPECT_EQ(pf_pin_add(region, page, page + 1), 0);
  pf_restore_signals(&before);
}

static void unpin(pf_region_t *region, uint64_t page) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_pin_remove(region, page, page + 1);
  pf_restore_signals(&before);
}

/* Again and again: the first page is loaded, pinned, made old, and let go. Some time after that it has gone; nobody touches it meanwhile but the other thread. */
static void make_old(pf_region_t *region, bool (*forget)(pf_region_t *region, uint64_t first, uint64_t end)) {
  uint64_t latest = pf_now_ns() + SOON;
  bool fresh = true;
  pf_why_t why;
  for (int round = 0; fresh && round < ROUNDS && (round < 200 || pf_now_ns() < latest); round++) {
    sigset_t before;
    pin(region, 0);
    EXPECT(ensure(region, 0, LONG_MS, false, &why));
    pf_mask_signals(&before);
    EXPECT(forget(region, 0, 1));
    pf_restore_signals(&before);
    unpin(region, 0);
    fresh = wait_until(is_fresh, region, LONG_MS);
  }
  EXPECT(fresh);
}

/* --- a fault on a page that is there ------------------------------------------------------------------------------------------- */

static void *look_again(void *data) {
  pf_region_t *region = data;
  sigset_t before;
  pf_mask_signals(&before);
  while (!atomic_load(&stop)) {
    pf_wait_t wait = {.deadline_ns = pf_now_ns() + LONG_MS * MS};
    pf_why_t why;
    EXPECT(pf_page_reopen(region, 0, &wait, &why));
  }
  pf_restore_signals(&before);
  return NULL;
}

static void under(pf_region_t *region, void *(*other)(void *), bool (*forget)(pf_region_t *region, uint64_t first, uint64_t end)) {
  pthread_t thread;
  atomic_store(&stop, 0);
  must(pthread_create(&thread, NULL, other, region) == 0, "a thread");
  make_old(region, forget);
  atomic_store(&stop, 1);
  pthread_join(thread, NULL);
}

static void reopened(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(4 * PAGE), 4 * PAGE, OPTIONS());
  under(region, look_again, pf_region_invalidate);
  EXPECT(close_region(region));
}

/* --- a write ---------------------------------------------------------------------------------------------------------------------- */

/* As if threads wrote to the page all the time, and it was protected before each write. */
static void *write_again(void *data) {
  pf_region_t *region = data;
  sigset_t before;
  pf_mask_signals(&before);
  while (!atomic_load(&stop)) {
    pf_wait_t wait = {.deadline_ns = pf_now_ns() + LONG_MS * MS, .write = true};
    pf_why_t why;
    EXPECT(pf_page_admit_write(region, 0, &wait, &why));
    pf_region_reset_write_detection(region, 0, 1);
  }
  pf_restore_signals(&before);
  return NULL;
}

static void written(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(4 * PAGE), 4 * PAGE, OPTIONS(.writable = true));
  if (region->track == PF_TRACK_FAULT) {
    under(region, write_again, pf_region_discard);
  }
  EXPECT(close_region(region));
}

/* --- an eviction -------------------------------------------------------------------------------------------------------------------- */

/* Others need room, and what goes is kept for a while, because it was slow to load. */
static void *crowd_out(void *data) {
  pf_region_t *region = data;
  for (uint64_t page = 1; !atomic_load(&stop); page = page % (region->page_count - 1) + 1) {
    pf_why_t why;
    atomic_store(&region->load_cost_ns, 1000000);
    EXPECT(ensure(region, page, LONG_MS, false, &why));
  }
  return NULL;
}

static void evicted(pf_backend_t backend) {
  pf_budget_t *budget = NULL;
  must(pf_budget_create(16 * PAGE, &budget) == 0, "a budget");
  pf_region_t *region = open_region(backend, memory_source(64 * PAGE), 64 * PAGE, OPTIONS(.budget = budget));
  under(region, crowd_out, pf_region_invalidate);
  pf_budget_numbers_t numbers;
  pf_budget_numbers(budget, &numbers);
  EXPECT_EQ(numbers.used, counter(&region->counters.resident) + counter(&region->counters.staged));
  EXPECT_EQ(numbers.used, counter(&region->charged));
  EXPECT(close_region(region));
  pf_budget_drop(budget);
}

int main(void) {
  test_each("an invalidated page goes with its pin while a thread finds that it is there", reopened);
  test_each("a discarded page goes with its pin while writes to it are let through", written);
  test_each("an invalidated page goes with its pin while others are evicted", evicted);
  return summary();
}
