/* sanitizers: address,thread,none */
/* Pages that a pager was asked for ahead, and that somebody comes to wait for: they go with what threads wait for (queue.c). */
#include "support.h"
#include "touched.h"

#define PAGES 128ULL
#define AHEAD 16U

static void bring_ahead(pf_region_t *region, uint64_t first, uint64_t end) {
  pf_wait_t wait = {.background = true};
  sigset_t before;
  uint32_t done = 1;
  pf_mask_signals(&before);
  for (uint64_t page = first; done > 0 && page < end; page += done) {
    done = pf_pages_bring_ahead(region, page, 1, &wait);
  }
  pf_restore_signals(&before);
}

/* --- orders that are waited for by another thread --- */

typedef struct {
  pf_region_t *region;
  uint64_t page;
  pthread_t thread;
} toucher_t;

static void *touch_page(void *data) {
  toucher_t *toucher = data;
  EXPECT_EQ(touch(toucher->region, toucher->page * PAGE + 9), pattern(toucher->page * PAGE + 9));
  return NULL;
}

static void start_touch(toucher_t *toucher, pf_region_t *region, uint64_t page) {
  *toucher = (toucher_t){.region = region, .page = page};
  must(pthread_create(&toucher->thread, NULL, touch_page, toucher) == 0, "a thread");
}

typedef struct {
  test_store_t store;
  pf_order_t orders[PAGES]; /* the store's thread, until `go` */
  _Atomic uint32_t count, go, hurried_slot;
} keeping_t;

/* --- orders that the store has --- */

static bool keep(test_store_t *store, const pf_order_t *order) {
  keeping_t *keeping = store->data;
  if (atomic_load(&keeping->go)) {
    return true;
  }
  uint32_t count = atomic_load(&keeping->count);
  keeping->orders[count] = *order;
  atomic_store(&keeping->count, count + 1);
  return false;
}

static void note_hurry(test_store_t *store, uint32_t slot) {
  keeping_t *keeping = store->data;
  atomic_store(&keeping->hurried_slot, slot);
}

static void answer_kept(test_store_t *store) {
  keeping_t *keeping = store->data;
  if (!atomic_load(&keeping->go)) {
    return;
  }
  uint32_t count = atomic_exchange(&keeping->count, 0);
  for (uint32_t i = 0; i < count; i++) {
    store_answer(store, &keeping->orders[i]);
  }
}

static bool has_kept(void *data) { return atomic_load(&((keeping_t *)data)->count) == AHEAD; }
static bool has_hurried(void *data) { return atomic_load(&((keeping_t *)data)->store.hurried) == 1; }
static bool has_hurried_twice(void *data) { return atomic_load(&((keeping_t *)data)->store.hurried) == 2; }
static bool wait_three(void *data) { return counter(&((pf_region_t *)data)->counters.waits) == 3; }

static uint64_t page_of(const keeping_t *keeping, uint32_t slot) {
  for (uint32_t i = 0; i < AHEAD; i++) {
    if (keeping->orders[i].slot == slot) {
      return keeping->orders[i].offset / PAGE;
    }
  }
  return PAGES;
}

static void are_taken(pf_backend_t backend) {
  static keeping_t keeping;
  keeping = (keeping_t){.store = {.serve = keep, .hurry = note_hurry, .between = answer_kept}};
  keeping.store.data = &keeping;
  start_store(&keeping.store);
  pf_region_t *region = open_region(backend, pager_source(&keeping.store), PAGES * PAGE, OPTIONS(0));
  toucher_t touchers[3];
  bring_ahead(region, 0, AHEAD);
  EXPECT(wait_until(has_kept, &keeping, 20000));
  for (uint32_t i = 0; i < AHEAD; i++) {
    EXPECT_EQ(keeping.orders[i].access, PF_ASK_AHEAD);
  }
  EXPECT_EQ(atomic_load(&keeping.store.hurried), 0);
  start_touch(&touchers[0], region, 11);
  EXPECT(wait_until(has_hurried, &keeping, 20000));
  EXPECT_EQ(page_of(&keeping, atomic_load(&keeping.hurried_slot)), 11);
  start_touch(&touchers[1], region, 11); /* it is told once */
  start_touch(&touchers[2], region, 3);
  EXPECT(wait_until(wait_three, region, 20000));
  EXPECT(wait_until(has_hurried_twice, &keeping, 20000));
  EXPECT_EQ(page_of(&keeping, atomic_load(&keeping.hurried_slot)), 3);
  atomic_store(&keeping.go, 1);
  for (int i = 0; i < 3; i++) {
    pthread_join(touchers[i].thread, NULL);
  }
  EXPECT_EQ(first_difference(region, 0, AHEAD * PAGE, 0, AHEAD * PAGE), AHEAD * PAGE);
  EXPECT_EQ(atomic_load(&keeping.store.hurried), 2);
  EXPECT_EQ(counter(&region->counters.store_reads), AHEAD);
  EXPECT(close_region(region));
  stop_store(&keeping.store);
}

/* --- orders that wait for a store that is at another one --- */

/* The first order is kept until the test says so, and the store takes nothing meanwhile. */
static bool stop_at_first(test_store_t *store, const pf_order_t *order) {
  keeping_t *keeping = store->data;
  uint32_t count = atomic_load(&keeping->count);
  keeping->orders[count] = *order;
  atomic_store(&keeping->count, count + 1);
  while (!atomic_load(&keeping->go)) {
    pf_sleep_until(pf_now_ns() + MS / 10);
  }
  return true;
}

static bool has_one(void *data) { return atomic_load(&((keeping_t *)data)->count) == 1; }
static bool has_all(void *data) { return atomic_load(&((keeping_t *)data)->count) == AHEAD + 1; }

static bool asked(void *data) {
  pf_region_t *region = data;
  return state_of(region, 100) == PF_LOADING && counter(&region->counters.waits) == 2;
}

/* One that somebody came to wait for, one that was never asked for ahead: both before the others, whose order stays. */
static void wait_for_the_store(pf_backend_t backend) {
  static keeping_t keeping;
  keeping = (keeping_t){.store = {.serve = stop_at_first}};
  keeping.store.data = &keeping;
  start_store(&keeping.store);
  pf_region_t *region = open_region(backend, pager_source(&keeping.store), PAGES * PAGE, OPTIONS(0));
  toucher_t touchers[2];
  bring_ahead(region, 0, AHEAD);
  EXPECT(wait_until(has_one, &keeping, 20000));
  start_touch(&touchers[0], region, 12);
  start_touch(&touchers[1], region, 100);
  EXPECT(wait_until(asked, region, 20000));
  pf_sleep_until(pf_now_ns() + 20 * MS); /* what the touch of page 12 says comes right before it waits */
  atomic_store(&keeping.go, 1);
  for (int i = 0; i < 2; i++) {
    pthread_join(touchers[i].thread, NULL);
  }
  EXPECT(wait_until(has_all, &keeping, 20000));
  const uint64_t expected[AHEAD + 1] = {0, 12, 100, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15};
  for (uint32_t i = 0; i <= AHEAD; i++) {
    EXPECT_EQ(keeping.orders[i].offset / PAGE, expected[i]);
    EXPECT_EQ(keeping.orders[i].access, i == 1 || i == 2 ? PF_ASK_READ : PF_ASK_AHEAD);
  }
  EXPECT_EQ(first_difference(region, 0, AHEAD * PAGE, 0, AHEAD * PAGE), AHEAD * PAGE);
  EXPECT(close_region(region));
  stop_store(&keeping.store);
}

/* --- an order that comes after whoever waits for it --- */

static bool waits_one(void *data) { return counter(&((pf_region_t *)data)->counters.waits) == 1; }

/* Whoever asks for a page ahead has it LOADING for a moment before there is an order. */
static void is_asked_later(pf_backend_t backend) {
  static keeping_t keeping;
  keeping = (keeping_t){.store = {.serve = keep, .between = answer_kept}};
  keeping.store.data = &keeping;
  start_store(&keeping.store);
  pf_region_t *region = open_region(backend, pager_source(&keeping.store), PAGES * PAGE, OPTIONS(0));
  toucher_t toucher;
  sigset_t before;
  atomic_store(&region->states[5], PF_LOADING);
  pf_block_enter(region, 5);
  start_touch(&toucher, region, 5);
  EXPECT(wait_until(waits_one, region, 20000));
  pf_mask_signals(&before);
  EXPECT(pf_pager_ask_ahead(region, 5, 1));
  pf_restore_signals(&before);
  EXPECT(wait_until(has_hurried, &keeping, 20000));
  atomic_store(&keeping.go, 1);
  pthread_join(toucher.thread, NULL);
  EXPECT(close_region(region));
  stop_store(&keeping.store);
}

/* --- many who wait, and no end of them --- */

#define WAITERS 6

typedef struct {
  toucher_t toucher;
  _Atomic uint32_t *stop;
} again_t;

static void *touch_again(void *data) {
  again_t *again = data;
  sigset_t before;
  while (!atomic_load(again->stop)) {
    touch_page(&again->toucher);
    pf_mask_signals(&before);
    pf_region_release(again->toucher.region, again->toucher.page, again->toucher.page + 1);
    pf_restore_signals(&before);
  }
  return NULL;
}

/* So slow that the next one is there before one is answered. */
static bool serve_slowly(test_store_t *store, const pf_order_t *order) {
  (void)store;
  (void)order;
  pf_sleep_until(pf_now_ns() + MS);
  return true;
}

static bool has_begun(void *data) { return atomic_load(&((test_store_t *)data)->orders) > 20; }

static bool came_ahead(void *data) {
  for (uint64_t page = 0; page < AHEAD; page++) {
    if (state_of(data, page) != PF_PRESENT) {
      return false;
    }
  }
  return true;
}

static void have_their_turn(pf_backend_t backend) {
  test_store_t store = {.serve = serve_slowly};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), PAGES * PAGE, OPTIONS(0));
  _Atomic uint32_t stop = 0;
  again_t crew[WAITERS];
  for (uint64_t i = 0; i < WAITERS; i++) {
    crew[i] = (again_t){.toucher = {.region = region, .page = 2 * AHEAD + i}, .stop = &stop};
    must(pthread_create(&crew[i].toucher.thread, NULL, touch_again, &crew[i]) == 0, "a thread");
  }
  EXPECT(wait_until(has_begun, &store, 20000));
  bring_ahead(region, 0, AHEAD);
  EXPECT(wait_until(came_ahead, region, 20000));
  atomic_store(&stop, 1);
  for (unsigned i = 0; i < WAITERS; i++) {
    pthread_join(crew[i].toucher.thread, NULL);
  }
  EXPECT(close_region(region));
  stop_store(&store);
}

/* --- many at a time --- */

typedef struct {
  pf_region_t *region;
  uint64_t seed;
  _Atomic uint32_t *stop;
  pthread_t thread;
} crew_t;

static void *touch_any(void *data) {
  crew_t *crew = data;
  while (!atomic_load(crew->stop)) {
    uint64_t at = random_next(&crew->seed) % (PAGES * PAGE);
    EXPECT_EQ(touch(crew->region, at), pattern(at));
  }
  return NULL;
}

/* Keeps some orders and answers them later, in another order. */
static bool keep_some(test_store_t *store, const pf_order_t *order) {
  keeping_t *keeping = store->data;
  uint32_t count = atomic_load(&keeping->count);
  if (order->offset / PAGE % 3 != 0 || count == PAGES) {
    return true;
  }
  keeping->orders[count] = *order;
  atomic_store(&keeping->count, count + 1);
  return false;
}

/* Every other time, so that some are kept for a while. */
static void answer_backwards(test_store_t *store) {
  keeping_t *keeping = store->data;
  if (atomic_fetch_add(&keeping->go, 1) % 2 == 0) {
    return;
  }
  for (uint32_t count = atomic_exchange(&keeping->count, 0); count > 0; count--) {
    store_answer(store, &keeping->orders[count - 1]);
  }
}

static void come_and_go(pf_backend_t backend) {
  static keeping_t keeping;
  keeping = (keeping_t){.store = {.serve = keep_some, .between = answer_backwards}};
  keeping.store.data = &keeping;
  start_store(&keeping.store);
  pf_region_t *region = open_region(backend, pager_source(&keeping.store), PAGES * PAGE, OPTIONS(0));
  _Atomic uint32_t stop = 0;
  crew_t crew[3];
  for (unsigned i = 0; i < 3; i++) {
    crew[i] = (crew_t){.region = region, .seed = 7 + i, .stop = &stop};
    must(pthread_create(&crew[i].thread, NULL, touch_any, &crew[i]) == 0, "a thread");
  }
  uint64_t end = pf_now_ns() + 1500 * MS;
  while (pf_now_ns() < end || (atomic_load(&keeping.store.hurried) == 0 && pf_now_ns() < end + 20000 * MS)) {
    bring_ahead(region, 0, PAGES);
    sigset_t before;
    pf_mask_signals(&before);
    pf_region_release(region, 0, PAGES);
    pf_restore_signals(&before);
    pf_sleep_until(pf_now_ns() + 3 * MS); /* else the store never comes to answer what it keeps */
  }
  atomic_store(&stop, 1);
  for (unsigned i = 0; i < 3; i++) {
    pthread_join(crew[i].thread, NULL);
  }
  EXPECT(atomic_load(&keeping.store.hurried) > 0);
  EXPECT_EQ(first_difference(region, 0, PAGES * PAGE, 0, PAGES * PAGE), PAGES * PAGE);
  EXPECT(close_region(region));
  stop_store(&keeping.store);
}

int main(void) {
  test_each("a page that the store is asked for ahead is told to it once when somebody waits for it", are_taken);
  test_each("what somebody waits for goes before what is asked for ahead", wait_for_the_store);
  test_each("a page that is touched before its order ahead is there is told, too", is_asked_later);
  test_each("what is asked for ahead has its turn where threads wait without end", have_their_turn);
  test_each("pages asked for ahead, touched and dropped at once are right", come_and_go);
  return summary();
}
