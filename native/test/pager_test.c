/* sanitizers: address,thread,none */
/* A pager that is slow, silent, dead, or asks itself: every wait ends with a reason, every slot comes back, no page is ever zeroes. */
#include "support.h"

static bool took_an_order(void *data) { return atomic_load(&((test_store_t *)data)->orders) > 0; }

/* --- never answers ------------------------------------------------------------------------------------------------------- */

static void never_answers(pf_backend_t backend) {
  test_store_t store = {.serve = stay_silent};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), 8 * PAGE, OPTIONS());
  for (uint64_t page = 0; page < 3; page++) {
    uint64_t started = pf_now_ns();
    pf_why_t why = {0};
    EXPECT(!ensure(region, page, 150, false, &why));
    uint64_t took = pf_now_ns() - started;
    EXPECT_EQ(why.code, PF_E_TIMEOUT);
    EXPECT(took >= 150 * MS && took < 150 * MS + SOON);
    EXPECT_EQ(state_of(region, page), PF_FAILED);
    pf_failure_t failure;
    EXPECT(pf_failure_find(atomic_load(&region->id), page * PAGE, &failure));
    EXPECT_EQ(failure.why.code, PF_E_TIMEOUT);
    EXPECT_EQ(failure.offset, page * PAGE);
    started = pf_now_ns();
    EXPECT(!ensure(region, page, LONG_MS, false, &why)); /* a failed page says so at once */
    EXPECT(pf_now_ns() - started < SOON);
    EXPECT_EQ(why.code, PF_E_TIMEOUT);
  }
  EXPECT_EQ(counter(&region->counters.failed_pages), 3);
  EXPECT(close_region(region));
  stop_store(&store);
}

#define BATCH 32
#define BATCHES (PF_PAGER_SLOTS / BATCH + 2)

typedef struct {
  pf_order_t orders[BATCH];
  size_t count;
  uint64_t batch; /* that they are of */
} late_t;

/* More timeouts than there are slots, each answered when nobody wants it any more; then the store behaves. */
static bool answer_batch_late(test_store_t *store, const pf_order_t *order) {
  late_t *late = store->data;
  uint64_t batch = order->offset / PAGE / BATCH;
  if (batch != late->batch) { /* the one before it was given up; its first order may have been before it was taken */
    for (size_t i = 0; i < late->count; i++) {
      memset(store_buffer(store, late->orders[i].slot), 0xdd, PAGE);
      EXPECT_EQ(pf_pager_complete(atomic_load(&store->pager), late->orders[i].slot, (int64_t)PAGE), 0);
    }
    late->count = 0;
    late->batch = batch;
  }
  if (atomic_load(&store->paused) == 0) {
    return true;
  }
  late->orders[late->count++] = *order;
  return false;
}

static void slots_come_back(pf_backend_t backend) {
  late_t late = {.count = 0};
  uint64_t pages = BATCHES * BATCH;
  test_store_t store = {.serve = answer_batch_late, .data = &late};
  atomic_store(&store.paused, 1);
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), pages * PAGE, OPTIONS());
  pf_why_t why;
  for (uint64_t page = 0; page < pages; page += BATCH) { /* as many at once, taken by the store or not yet */
    for (uint64_t i = 0; i < BATCH; i++) {
      uint8_t absent = PF_ABSENT;
      pf_wait_t wait = {.deadline_ns = pf_now_ns() + LONG_MS * MS};
      EXPECT(atomic_compare_exchange_strong(&region->states[page + i], &absent, PF_LOADING));
      EXPECT(pf_pager_ask(region, page + i, 0, &wait, &why));
    }
    for (uint64_t i = 0; i < BATCH; i++) {
      EXPECT(pf_pager_abandon(region, page + i)); /* as a waiter does at its deadline */
      EXPECT(!pf_pager_abandon(region, page + i));
      EXPECT_EQ(state_of(region, page + i), PF_FAILED);
    }
  }
  atomic_store(&store.paused, 0);
  for (uint64_t page = 0; page < pages; page++) {
    EXPECT(ensure(region, page, LONG_MS, true, &why));
    EXPECT_EQ(touch(region, page * PAGE + 3), pattern(page * PAGE + 3));
  }
  EXPECT_EQ(counter(&region->counters.failed_pages), 0);
  EXPECT(close_region(region));
  stop_store(&store);
}

/* Answers the order before this one, which was given up. */
static bool answer_one_late(test_store_t *store, const pf_order_t *order) {
  late_t *late = store->data;
  if (late->count == 1) {
    store_answer(store, &late->orders[0]);
  }
  late->orders[0] = *order;
  late->count = 1;
  return false;
}

/* ASKED becomes TAKEN while somebody takes it away: it is taken away all the same, by whoever looks once. */
static void given_up_while_taken(pf_backend_t backend) {
  late_t late = {.count = 0};
  test_store_t store = {.serve = answer_one_late, .data = &late};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), PAGE, OPTIONS());
  uint64_t seed = 88172645463325252, missed = 0;
  for (int round = 0; round < (SLOW ? 10000 : 50000) && missed == 0; round++) {
    pf_why_t why;
    pf_wait_t wait = {.deadline_ns = pf_now_ns() + LONG_MS * MS};
    atomic_store(&region->states[0], PF_LOADING);
    EXPECT(pf_pager_ask(region, 0, 0, &wait, &why));
    uint64_t until = pf_now_ns() + random_next(&seed) % 20000;
    while (pf_now_ns() < until) {
    }
    missed += !pf_pager_abandon(region, 0);
  }
  EXPECT_EQ(missed, 0);
  EXPECT(close_region(region));
  stop_store(&store);
}

static bool all_but_the_first(test_store_t *store, const pf_order_t *order) {
  (void)store;
  return order->offset != 0;
}

static void one_is_silent(pf_backend_t backend) {
  test_store_t store = {.serve = all_but_the_first};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), 8 * PAGE, OPTIONS());
  pf_why_t why;
  EXPECT(!ensure(region, 0, 50, false, &why));
  EXPECT_EQ(why.code, PF_E_TIMEOUT);
  for (uint64_t page = 1; page < 8; page++) {
    EXPECT(ensure(region, page, LONG_MS, false, &why));
  }
  EXPECT_EQ(first_difference(region, PAGE, 8 * PAGE, 0, 8 * PAGE), 8 * PAGE);
  EXPECT_EQ(state_of(region, 0), PF_FAILED);
  EXPECT(close_region(region));
  stop_store(&store);
}

/* --- more at once than there are slots ---------------------------------------------------------------------------------------- */

#define CROWD (PF_PAGER_SLOTS + 40)

typedef struct {
  pf_order_t orders[PF_PAGER_SLOTS];
  size_t count;
} crowd_t;

/* Answers nobody before every slot is taken, then all; oldest first from then on. */
static bool serve_crowd(test_store_t *store, const pf_order_t *order) {
  crowd_t *crowd = store->data;
  if (crowd->count == PF_PAGER_SLOTS) {
    return true;
  }
  crowd->orders[crowd->count++] = *order;
  if (crowd->count == PF_PAGER_SLOTS) {
    for (size_t i = 0; i < PF_PAGER_SLOTS; i++) {
      store_answer(store, &crowd->orders[i]);
    }
  }
  return false;
}

typedef struct {
  pthread_t thread;
  pf_region_t *region;
  uint64_t page;
} reader_t;

static void *read_page(void *data) {
  reader_t *reader = data;
  uint64_t offset = reader->page * PAGE + 17;
  EXPECT_EQ(touch(reader->region, offset), pattern(offset));
  return NULL;
}

static void crowded(pf_backend_t backend) {
  static crowd_t crowd;
  static reader_t readers[CROWD];
  crowd.count = 0;
  test_store_t store = {.serve = serve_crowd, .data = &crowd};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), CROWD * PAGE, OPTIONS(.timeout_ms = 55000)); /* so many threads take long to start under a sanitizer */
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 256 * 1024);
  for (uint64_t i = 0; i < CROWD; i++) {
    readers[i] = (reader_t){.region = region, .page = i};
    must(pthread_create(&readers[i].thread, &attributes, read_page, &readers[i]) == 0, "a thread");
  }
  for (size_t i = 0; i < CROWD; i++) {
    pthread_join(readers[i].thread, NULL);
  }
  EXPECT_EQ(crowd.count, PF_PAGER_SLOTS);
  EXPECT_EQ(counter(&region->counters.store_reads), CROWD);
  EXPECT(close_region(region));
  stop_store(&store);
}

/* --- dies ------------------------------------------------------------------------------------------------------------------------ */

typedef struct {
  pthread_t thread;
  pf_region_t *region;
  uint64_t page;
  pf_why_t why;
  uint64_t took;
} waiter_t;

static void *wait_for_page(void *data) {
  waiter_t *waiter = data;
  uint64_t started = pf_now_ns();
  EXPECT(!ensure(waiter->region, waiter->page, 20000, false, &waiter->why));
  waiter->took = pf_now_ns() - started;
  return NULL;
}

/* For 10 ms at most: where others want the processor, to yield it takes long. */
static void yield_often(int times) {
  uint64_t most = pf_now_ns() + 10 * MS;
  for (int spin = 0; spin < times && pf_now_ns() < most; spin++) {
    sched_yield();
  }
}

static void is_killed(pf_backend_t backend) {
  test_store_t store = {.serve = stay_silent};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), 8 * PAGE, OPTIONS());
  waiter_t waiters[4];
  for (uint64_t i = 0; i < 4; i++) {
    waiters[i] = (waiter_t){.region = region, .page = i / 2};
    must(pthread_create(&waiters[i].thread, NULL, wait_for_page, &waiters[i]) == 0, "a thread");
  }
  EXPECT(wait_until(took_an_order, &store, LONG_MS));
  pf_sleep_until(pf_now_ns() + 20 * MS);
  pf_pager_kill(atomic_load(&store.pager), "the lights went out");
  for (int i = 0; i < 4; i++) {
    pthread_join(waiters[i].thread, NULL);
    EXPECT_EQ(waiters[i].why.code, PF_E_GONE);
    EXPECT(waiters[i].took < SOON);
  }
  pf_failure_t failure;
  EXPECT(pf_failure_find(atomic_load(&region->id), 0, &failure));
  EXPECT(strcmp(failure.message, "the lights went out") == 0);
  pf_why_t why;
  uint64_t started = pf_now_ns();
  EXPECT(!ensure(region, 5, 20000, false, &why)); /* and who comes later is told at once */
  EXPECT_EQ(why.code, PF_E_GONE);
  EXPECT(pf_now_ns() - started < SOON);
  pf_failure_of(region, 7, why, &failure); /* nor is a flush that asks for the first time */
  EXPECT(strcmp(failure.message, "the lights went out") == 0);
  EXPECT(close_region(region));
  stop_store(&store);
}

/* Killing and asking at the same time: nobody may be left waiting for the dead. */
static void killed_while_asked(pf_backend_t backend) {
  for (int round = 0; round < (SLOW ? 40 : 150); round++) {
    test_store_t store = {.serve = stay_silent};
    start_store(&store);
    pf_region_t *region = open_region(backend, pager_source(&store), 8 * PAGE, OPTIONS());
    waiter_t waiters[3];
    for (uint64_t i = 0; i < 3; i++) {
      waiters[i] = (waiter_t){.region = region, .page = i};
      must(pthread_create(&waiters[i].thread, NULL, wait_for_page, &waiters[i]) == 0, "a thread");
    }
    yield_often(round * 20);
    pf_pager_kill(atomic_load(&store.pager), "killed");
    for (int i = 0; i < 3; i++) {
      pthread_join(waiters[i].thread, NULL);
      EXPECT_EQ(waiters[i].why.code, PF_E_GONE);
    }
    EXPECT(close_region(region));
    stop_store(&store);
  }
}

/* --- waits for itself ---------------------------------------------------------------------------------------------------------------- */

typedef struct {
  _Atomic(pf_region_t *) region;
  pf_why_t why;
  uint64_t took;
  bool there;
} selfish_t;

/* Touches another page of its own region, then the very page that it is asked for. */
static bool serve_selfishly(test_store_t *store, const pf_order_t *order) {
  selfish_t *selfish = store->data;
  uint64_t started = pf_now_ns();
  if (order->offset == 0) {
    selfish->there = ensure(atomic_load(&selfish->region), 1, 20000, false, &selfish->why);
    pf_why_t why;
    EXPECT(!ensure(atomic_load(&selfish->region), 0, 20000, false, &why));
    EXPECT_EQ(why.code, PF_E_DEADLOCK);
  }
  selfish->took = pf_now_ns() - started;
  return true;
}

static void waits_for_itself(pf_backend_t backend) {
  selfish_t selfish = {.there = true};
  test_store_t store = {.serve = serve_selfishly, .data = &selfish};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), 8 * PAGE, OPTIONS());
  atomic_store(&selfish.region, region);
  EXPECT_EQ(touch(region, 0), pattern(0));
  EXPECT(!selfish.there);
  EXPECT_EQ(selfish.why.code, PF_E_DEADLOCK);
  EXPECT(selfish.took < SOON);
  EXPECT_EQ(state_of(region, 1), PF_ABSENT); /* nothing is wrong with the page */
  EXPECT_EQ(touch(region, PAGE), pattern(PAGE));
  EXPECT(close_region(region));
  stop_store(&store);
}

/* --- wrong answers ----------------------------------------------------------------------------------------------------------------- */

static bool answer_without_buffer(test_store_t *store, const pf_order_t *order) {
  pf_pager_t *pager = atomic_load(&store->pager);
  pf_pager_set_buffer(pager, order->slot, NULL, 0);
  pf_pager_complete(pager, order->slot, order->length);
  return false;
}

static bool answer_too_much(test_store_t *store, const pf_order_t *order) {
  store_buffer(store, order->slot);
  pf_pager_complete(atomic_load(&store->pager), order->slot, (int64_t)PAGE + 1);
  return false;
}

static void wrong_answers(pf_backend_t backend) {
  bool (*const wrong[])(test_store_t *, const pf_order_t *) = {answer_without_buffer, answer_too_much};
  for (size_t i = 0; i < 2; i++) {
    test_store_t store = {.serve = wrong[i]};
    start_store(&store);
    pf_region_t *region = open_region(backend, pager_source(&store), 4 * PAGE, OPTIONS());
    pf_why_t why = {0};
    EXPECT(!ensure(region, 1, LONG_MS, false, &why));
    EXPECT(state_of(region, 1) == PF_FAILED);
    EXPECT(close_region(region));
    stop_store(&store);
  }
}

/* A count below the page's length leaves zeroes behind it, whatever the buffer held before. */
static bool answer_short(test_store_t *store, const pf_order_t *order) {
  memset(store_buffer(store, order->slot), 0xab, PAGE);
  pf_pager_complete(atomic_load(&store->pager), order->slot, order->length);
  return false;
}

static void short_last_page(pf_backend_t backend) {
  test_store_t store = {.serve = answer_short};
  start_store(&store);
  uint64_t len = PAGE + 100;
  pf_region_t *region = open_region(backend, pager_source(&store), 3 * PAGE, OPTIONS(.store_length = len));
  EXPECT_EQ(touch(region, PAGE + 99), 0xab);
  EXPECT_EQ(touch(region, PAGE + 100), 0);
  EXPECT_EQ(touch(region, 2 * PAGE - 1), 0);
  EXPECT_EQ(touch(region, 2 * PAGE), 0);
  EXPECT_EQ(atomic_load(&store.orders), 1);
  EXPECT(close_region(region));
  stop_store(&store);
}

static bool fail_reads(test_store_t *store, const pf_order_t *order) {
  pf_pager_fail(atomic_load(&store->pager), order->slot, (pf_why_t){.code = PF_E_STORE, .err = EIO}, "no such thing", "{\"name\":\"Error\"}", false);
  return false;
}

static void failed_by_the_store(pf_backend_t backend) {
  test_store_t store = {.serve = fail_reads};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), 4 * PAGE, OPTIONS());
  pf_why_t why;
  pf_failure_t failure;
  EXPECT(!ensure(region, 1, LONG_MS, false, &why));
  EXPECT_EQ(why.code, PF_E_STORE);
  EXPECT_EQ(why.err, EIO);
  EXPECT(pf_failure_find(atomic_load(&region->id), PAGE, &failure));
  EXPECT(strcmp(failure.message, "no such thing") == 0 && strcmp(failure.cause, "{\"name\":\"Error\"}") == 0);
  EXPECT(pf_failure_next(atomic_load(&region->id), 0, &failure));
  EXPECT(!pf_failure_next(atomic_load(&region->id), failure.serial, &failure));
  EXPECT(close_region(region));
  stop_store(&store);
}

/* --- read-ahead -------------------------------------------------------------------------------------------------------------------- */

/* What is read ahead may fail: only who touches the page is told, and by a read of its own. */
static bool fail_ahead(test_store_t *store, const pf_order_t *order) {
  if (order->access != 2) {
    return true;
  }
  pf_pager_fail(atomic_load(&store->pager), order->slot, (pf_why_t){.code = PF_E_STORE}, "not now", NULL, false);
  return false;
}

static void ahead_fails(pf_backend_t backend) {
  test_store_t store = {.serve = fail_ahead};
  start_store(&store);
  uint64_t len = 64 * PAGE;
  pf_region_t *region = open_region(backend, pager_source(&store), len, OPTIONS(.readahead = (int64_t)(4 * PAGE)));
  EXPECT_EQ(first_difference(region, 0, len, 0, len), len);
  EXPECT_EQ(counter(&region->counters.failures), 0);
  EXPECT_EQ(counter(&region->counters.failed_pages), 0);
  EXPECT(close_region(region));
  stop_store(&store);
}

static void ahead_by_a_pager(pf_backend_t backend) {
  test_store_t store = {0};
  start_store(&store);
  uint64_t len = 300 * PAGE - 7;
  pf_region_t *region = open_region(backend, pager_source(&store), len, OPTIONS(.readahead = -1));
  EXPECT_EQ(first_difference(region, 0, len, 0, len), len);
  EXPECT_EQ(counter(&region->counters.loads), 300);
  EXPECT_EQ(counter(&region->counters.store_reads), 300);
  EXPECT(counter(&region->counters.readahead_pages) > 100);
  EXPECT(close_region(region));
  stop_store(&store);
}

/* --- closing ------------------------------------------------------------------------------------------------------------------------- */

static void closed_while_waiting(pf_backend_t backend) {
  test_store_t store = {.serve = stay_silent};
  start_store(&store);
  for (int round = 0; round < 20; round++) {
    pf_region_t *region = open_region(backend, pager_source(&store), 8 * PAGE, OPTIONS());
    waiter_t waiters[4];
    for (uint64_t i = 0; i < 4; i++) {
      waiters[i] = (waiter_t){.region = region, .page = i / 2};
      must(pthread_create(&waiters[i].thread, NULL, wait_for_page, &waiters[i]) == 0, "a thread");
    }
    yield_often(round * 50);
    if (round % 4 == 0) {
      pf_sleep_until(pf_now_ns() + 30 * MS);
    }
    pf_region_close(region, true);
    for (int i = 0; i < 4; i++) {
      pthread_join(waiters[i].thread, NULL);
      EXPECT_EQ(waiters[i].why.code, PF_E_CLOSED);
      EXPECT(waiters[i].took < SOON);
    }
    EXPECT(close_region(region)); /* nobody is left inside, although the store never answered */
  }
  stop_store(&store);
}

/* Asked by a thread that looked whether the region is open just before it was closed. */
static void asked_after_closing(pf_backend_t backend) {
  test_store_t store = {.serve = stay_silent};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), 8 * PAGE, OPTIONS());
  pf_region_close(region, true);
  uint8_t absent = PF_ABSENT;
  pf_wait_t wait = {.deadline_ns = pf_now_ns() + 20000 * MS};
  pf_why_t why;
  EXPECT(atomic_compare_exchange_strong(&region->states[1], &absent, PF_LOADING));
  if (pf_pager_ask(region, 1, 0, &wait, &why)) {
    EXPECT_EQ(state_of(region, 1), PF_ABSENT); /* taken back at once */
  } else {
    EXPECT_EQ(why.code, PF_E_CLOSED);
  }
  absent = PF_ABSENT;
  EXPECT(atomic_compare_exchange_strong(&region->states[2], &absent, PF_LOADING));
  if (pf_pager_ask_ahead(region, 2, 1)) {
    EXPECT_EQ(state_of(region, 2), PF_ABSENT);
  }
  EXPECT(close_region(region)); /* nobody is left inside, although the store never answers */
  stop_store(&store);
}

static void pagers_are_used_again(pf_backend_t backend) {
  unsigned before = count_descriptors();
  for (int round = 0; round < 200; round++) {
    test_store_t store = {0};
    start_store(&store);
    pf_region_t *region = open_region(backend, pager_source(&store), 2 * PAGE, OPTIONS());
    uint64_t id = pf_pager_id(atomic_load(&store.pager));
    EXPECT(pf_pager_by_id(id) == atomic_load(&store.pager));
    EXPECT_EQ(touch(region, PAGE), pattern(PAGE));
    EXPECT(close_region(region));
    stop_store(&store);
  }
  EXPECT_EQ(count_descriptors(), before);
  EXPECT_EQ(pf_pager_descriptors(), 0);
}

/* --- a raw touch that cannot be served ends the process, and says why ------------------------------------------------------------------ */

static bool touch_own(test_store_t *store, const pf_order_t *order) {
  (void)order;
  touch((pf_region_t *)store->data, PAGE);
  return true;
}

static int in_child(const char *name, pf_backend_t backend) {
  default_handlers();
  bool selfish = strcmp(name, "selfish") == 0;
  test_store_t store = {.serve = selfish ? touch_own : stay_silent};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), 4 * PAGE, OPTIONS(.timeout_ms = selfish ? LONG_MS : 200, .name = "the unlucky one"));
  store.data = region;
  touch(region, 0);
  return 0;
}

static void raw_touches(pf_backend_t backend) {
  ended_t ended;
  run_child("silent", backend, &ended);
  EXPECT_SIGNAL(&ended, fatal_signal(backend));
  EXPECT_TEXT(&ended, "the unlucky one");
  EXPECT_TEXT(&ended, "ERR_PAGEFAULT_TIMEOUT");
  EXPECT_TEXT(&ended, "page 0 of 4");
  run_child("selfish", backend, &ended);
  EXPECT_SIGNAL(&ended, fatal_signal(backend));
  EXPECT_TEXT(&ended, "ERR_PAGEFAULT_DEADLOCK");
  EXPECT_TEXT(&ended, "page 1 of 4");
}

int main(int count, char **arguments) {
  if (count == 4) {
    return in_child(arguments[2], backend_named(arguments[3]));
  }
  test_each("a pager that never answers is given up at the deadline, and the page fails", never_answers);
  test_each("slots that were given up come back, and late answers are dropped", slots_come_back);
  test_each("an order is given up at the moment at which the store takes it", given_up_while_taken);
  test_each("a page that is given up does not disturb the others", one_is_silent);
  test_each("more threads than slots are all served", crowded);
  test_each("when a pager is killed its waiters are told at once", is_killed);
  test_each("nobody is left waiting for a pager that is killed while it is asked", killed_while_asked);
  test_each("a pager that needs its own pages is refused, and they are not lost", waits_for_itself);
  test_each("an answer without bytes or with too many fails the page and is not zeroes", wrong_answers);
  test_each("behind a short last page there are zeroes", short_last_page);
  test_each("the store's own reason and cause are kept", failed_by_the_store);
  test_each("a page that could not be read ahead is read when it is touched", ahead_fails);
  test_each("a pager reads ahead, each page once", ahead_by_a_pager);
  test_each("closing ends every wait although the store never answers", closed_while_waiting);
  test_each("an order that comes too late for a closing region is taken back", asked_after_closing);
  test_each("pagers and their descriptors are used again", pagers_are_used_again);
  test_each("a raw touch that cannot be served ends the process with the reason", raw_touches);
  return summary();
}
