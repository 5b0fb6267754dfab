/* sanitizers: address,thread,none */
/*
 * One store read a page however many threads touch it, different pages in parallel, and no stale page after release or invalidate,
 * whatever state the page is in at that moment. The step that opens a page can be held at a gate: ioctl and mprotect of this program
 * are ours, and so are pread and fstat.
 */
#include "support.h"

#include <stdarg.h>

/* --- the gate before a page is opened ----------------------------------------------------------------------------------- */

typedef enum { NO_GATE, AT_OPEN, AT_READ, AT_LOOK } gate_t;

static _Atomic int gate_armed, gate_held; /* armed: the next one waits; held: it waits now */

static void at_gate(gate_t gate) {
  int armed = (int)gate;
  if (atomic_compare_exchange_strong(&gate_armed, &armed, NO_GATE)) {
    atomic_store(&gate_held, 1);
    while (atomic_load(&gate_held) == 1) {
      pf_sleep_until(pf_now_ns() + MS / 10);
    }
  }
}

int ioctl(int fd, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  if ((request >> 8 & 0xff) == 0xaa && ((request & 0xff) == 3 || (request & 0xff) == 7)) { /* UFFDIO_COPY, UFFDIO_CONTINUE */
    at_gate(AT_OPEN);
  }
  return (int)syscall(SYS_ioctl, fd, request, argument);
}

int mprotect(void *addr, size_t len, int prot) {
  if (prot == PROT_READ) {
    at_gate(AT_OPEN);
  }
  return (int)syscall(SYS_mprotect, addr, len, prot);
}

static ssize_t gated_read(int fd, void *into, size_t len, off_t offset) {
  ssize_t n = syscall(SYS_pread64, fd, into, len, offset);
  at_gate(AT_READ);
  return n;
}

ssize_t pread(int fd, void *into, size_t len, off_t offset) { return gated_read(fd, into, len, offset); }
ssize_t pread64(int fd, void *into, size_t len, off_t offset) { return gated_read(fd, into, len, offset); }
NOTHING_AT_ONCE

int fstat(int fd, struct stat *out) {
  struct stat now; /* as the kernel has it, which is not what every C library has */
  bool seen = syscall(SYS_newfstatat, fd, "", &now, AT_EMPTY_PATH) == 0;
  *out = seen ? now : *out;
  at_gate(AT_LOOK);
  return seen ? 0 : -1;
}

static bool is_held(void *unused) {
  (void)unused;
  return atomic_load(&gate_held) == 1;
}

static void open_gate(void) { atomic_store(&gate_held, 0); }

/* --- threads that touch ---------------------------------------------------------------------------------------------------- */

typedef struct {
  pthread_t thread;
  pf_region_t *region;
  uint64_t offset;
  _Atomic int seen; /* -1: not yet */
} toucher_t;

static void *touch_it(void *data) {
  toucher_t *toucher = data;
  atomic_store(&toucher->seen, touch(toucher->region, toucher->offset));
  return NULL;
}

static void start_toucher(toucher_t *toucher, pf_region_t *region, uint64_t offset) {
  toucher->region = region;
  toucher->offset = offset;
  atomic_store(&toucher->seen, -1);
  must(pthread_create(&toucher->thread, NULL, touch_it, toucher) == 0, "a thread");
}

static int join_toucher(toucher_t *toucher) {
  pthread_join(toucher->thread, NULL);
  return atomic_load(&toucher->seen);
}

/* --- one read a page ---------------------------------------------------------------------------------------------------------- */

#define THREADS 8

static bool serve_slowly(test_store_t *store, const pf_order_t *order) {
  (void)store;
  (void)order;
  pf_sleep_until(pf_now_ns() + 30 * MS);
  return true;
}

static void one_read(pf_backend_t backend) {
  test_store_t store = {.serve = serve_slowly};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), 16 * PAGE, OPTIONS());
  for (int round = 0; round < 3; round++) {
    toucher_t touchers[THREADS];
    uint64_t offset = (uint64_t)(2 * round) * PAGE;
    for (int i = 0; i < THREADS; i++) {
      start_toucher(&touchers[i], region, offset + (uint64_t)i);
    }
    for (int i = 0; i < THREADS; i++) {
      EXPECT_EQ(join_toucher(&touchers[i]), pattern(offset + (uint64_t)i));
    }
    EXPECT_EQ(atomic_load(&store.orders), round + 1);
    EXPECT_EQ(counter(&region->counters.store_reads), round + 1);
    EXPECT_EQ(counter(&region->counters.loads), round + 1);
  }
  EXPECT(close_region(region));
  stop_store(&store);
}

/* Threads over all pages of a file, the same pages at the same time. */
static void *touch_all(void *data) {
  pf_region_t *region = data;
  for (uint64_t page = 0; page < region->page_count; page++) {
    EXPECT_EQ(touch(region, page << region->page_shift), pattern(page << region->page_shift));
  }
  return NULL;
}

static void one_read_of_a_file(pf_backend_t backend) {
  uint64_t pages = SLOW ? 500 : 4000;
  pf_region_t *region = open_region(backend, file_source(pages * PAGE), pages * PAGE, OPTIONS());
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++) {
    must(pthread_create(&threads[i], NULL, touch_all, region) == 0, "a thread");
  }
  for (int i = 0; i < THREADS; i++) {
    pthread_join(threads[i], NULL);
  }
  EXPECT_EQ(counter(&region->counters.loads), pages);
  EXPECT_EQ(counter(&region->counters.store_reads), pages);
  EXPECT_EQ(counter(&region->counters.bytes_read), pages * PAGE);
  EXPECT_EQ(counter(&region->counters.resident), pages * PAGE);
  EXPECT(close_region(region));
}

/* --- different pages in parallel ---------------------------------------------------------------------------------------------- */

#define RENDEZVOUS 6

static pf_order_t waiting[PF_PAGER_SLOTS];
static size_t waiting_count;

/* Answers none before all are asked. */
static bool serve_together(test_store_t *store, const pf_order_t *order) {
  waiting[waiting_count++] = *order;
  if (waiting_count == RENDEZVOUS) {
    for (size_t i = waiting_count; i-- > 0;) {
      store_answer(store, &waiting[i]);
    }
    waiting_count = 0;
  }
  return false;
}

static void in_parallel(pf_backend_t backend) {
  waiting_count = 0;
  test_store_t store = {.serve = serve_together};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), 64 * PAGE, OPTIONS());
  toucher_t touchers[RENDEZVOUS];
  for (uint64_t i = 0; i < RENDEZVOUS; i++) {
    start_toucher(&touchers[i], region, 7 * i * PAGE);
  }
  for (uint64_t i = 0; i < RENDEZVOUS; i++) {
    EXPECT_EQ(join_toucher(&touchers[i]), pattern(7 * i * PAGE));
  }
  EXPECT(close_region(region));
  stop_store(&store);
}

/* --- stale pages ------------------------------------------------------------------------------------------------------------------ */

static _Atomic uint8_t version;   /* what every byte of the store is now */
static _Atomic int hold_answers;  /* 1: the store has read the old version and waits before it answers */
static _Atomic int holding;

static bool serve_version(test_store_t *store, const pf_order_t *order) {
  uint8_t *bytes = store_buffer(store, order->slot);
  do {
    memset(bytes, atomic_load(&version), order->length);
    while (atomic_load(&hold_answers) == 1) {
      atomic_store(&holding, 1);
      pf_sleep_until(pf_now_ns() + MS / 10);
    }
    atomic_store(&holding, 0);
  } while (pf_pager_complete(atomic_load(&store->pager), order->slot, order->length) != 0 && atomic_fetch_add(&store->agains, 1) + 1 > 0);
  return false;
}

static bool is_holding(void *unused) {
  (void)unused;
  return atomic_load(&holding) == 1;
}

static void changed_while_loading(pf_backend_t backend, void (*change)(pf_region_t *)) {
  test_store_t store = {.serve = serve_version};
  atomic_store(&version, 1);
  atomic_store(&hold_answers, 1);
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), 4 * PAGE, OPTIONS());
  toucher_t toucher;
  start_toucher(&toucher, region, 2 * PAGE);
  EXPECT(wait_until(is_holding, NULL, LONG_MS));
  EXPECT_EQ(state_of(region, 2), PF_LOADING);
  atomic_store(&version, 2);
  change(region);
  EXPECT_EQ(atomic_load(&toucher.seen), -1);
  atomic_store(&hold_answers, 0);
  EXPECT_EQ(join_toucher(&toucher), 2);
  EXPECT_EQ(touch(region, 3 * PAGE - 1), 2);
  EXPECT_EQ(atomic_load(&store.agains), 1);
  EXPECT_EQ(counter(&region->counters.loads), 1);
  EXPECT(close_region(region));
  stop_store(&store);
}

static void release_all(pf_region_t *region) { pf_region_release(region, 0, region->page_count); }
static void invalidate_all(pf_region_t *region) { pf_region_invalidate(region, 0, region->page_count); }
static void released_while_loading(pf_backend_t backend) { changed_while_loading(backend, release_all); }
static void invalidated_while_loading(pf_backend_t backend) { changed_while_loading(backend, invalidate_all); }

/* The store says no, for good, to what it is asked of a page that was invalidated meanwhile: with what it has now there may be nothing wrong. */
static bool refuse_the_old(test_store_t *store, const pf_order_t *order) {
  if (atomic_load(&store->orders) > 1) {
    return true;
  }
  pf_region_invalidate(store->data, 0, ((pf_region_t *)store->data)->page_count);
  pf_pager_fail(atomic_load(&store->pager), order->slot, (pf_why_t){.code = PF_E_STORE}, "no such version", NULL, false);
  return false;
}

static void refused_while_invalidated(pf_backend_t backend) {
  test_store_t store = {.serve = refuse_the_old};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), 4 * PAGE, OPTIONS());
  store.data = region;
  EXPECT_EQ(touch(region, 2 * PAGE), pattern(2 * PAGE));
  EXPECT_EQ(atomic_load(&store.orders), 2);
  EXPECT_EQ(counter(&region->counters.failures), 0);
  EXPECT(close_region(region));
  stop_store(&store);
}

/* The file was changed, which the thread that reads a page has seen, but not yet that it counts as it is now. */
static void changed_while_invalidated(pf_backend_t backend) {
  char path[64];
  make_path(path);
  write_file(path, 0, 4 * PAGE);
  pf_region_t *region = open_region(backend, file_source_at(path, 0), 4 * PAGE, OPTIONS());
  must(truncate(path, (off_t)(4 * PAGE + 1)) == 0, "a longer file");
  toucher_t toucher;
  atomic_store(&gate_armed, AT_LOOK);
  start_toucher(&toucher, region, 2 * PAGE);
  EXPECT(wait_until(is_held, NULL, LONG_MS));
  EXPECT_EQ(pf_source_rebase(&region->source), 0);
  invalidate_all(region);
  open_gate();
  EXPECT_EQ(join_toucher(&toucher), pattern(2 * PAGE));
  EXPECT_EQ(counter(&region->counters.failures), 0);
  EXPECT(close_region(region));
  unlink(path);
}

/* A run is given up but for its first page when one of it has become old: the others are not in memory then, where nobody counts them. */
static void run_given_up(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, file_source(16 * PAGE), 16 * PAGE, OPTIONS(.readahead = (int64_t)(7 * PAGE)));
  toucher_t toucher;
  atomic_store(&gate_armed, AT_READ);
  start_toucher(&toucher, region, 3);
  EXPECT(wait_until(is_held, NULL, LONG_MS));
  EXPECT_EQ(state_of(region, 7), PF_LOADING);
  pf_region_invalidate(region, 5, 6);
  open_gate();
  EXPECT_EQ(join_toucher(&toucher), pattern(3));
  for (uint64_t page = 1; page < 16; page++) {
    EXPECT_EQ(state_of(region, page), PF_ABSENT);
    EXPECT_EQ(pf_mem_resident(region->base + page * PAGE, PAGE), 0);
  }
  EXPECT_EQ(first_difference(region, 0, 16 * PAGE, 0, 16 * PAGE), 16 * PAGE);
  EXPECT(close_region(region));
}

static void *invalidate_thread(void *data) {
  pf_region_invalidate(data, 0, 1);
  atomic_store(&holding, 2);
  return NULL;
}

static bool has_waiter(void *data) {
  pf_region_t *region = data;
  return (atomic_load(&region->states[0]) & PF_WAITED) != 0;
}

/* The store's bytes are on their way into the page when they become old. */
static void invalidated_while_installing(pf_backend_t backend) {
  static uint8_t bytes[1 << 16];
  for (int round = 0; round < 3; round++) {
    memset(bytes, 1, sizeof bytes);
    pf_source_t source = {.kind = PF_SOURCE_MEMORY, .fd = -1, .bytes = bytes};
    pf_region_t *region = open_region(backend, source, PAGE, OPTIONS());
    toucher_t toucher;
    pthread_t invalidator;
    atomic_store(&holding, 0);
    atomic_store(&gate_armed, AT_OPEN);
    start_toucher(&toucher, region, 5);
    EXPECT(wait_until(is_held, NULL, LONG_MS));
    EXPECT_EQ(state_of(region, 0), PF_INSTALLING);
    memset(bytes, 2, sizeof bytes);
    must(pthread_create(&invalidator, NULL, invalidate_thread, region) == 0, "a thread");
    EXPECT(wait_until(has_waiter, region, LONG_MS));
    EXPECT_EQ(atomic_load(&holding), 0); /* it may not return before the old bytes are gone */
    open_gate();
    pthread_join(invalidator, NULL);
    EXPECT_EQ(touch(region, 6), 2);
    int seen = join_toucher(&toucher);
    EXPECT(seen == 1 || seen == 2); /* it asked before the change */
    EXPECT_EQ(touch(region, 7), 2);
    EXPECT(close_region(region));
  }
}

static void invalidated_while_pinned(pf_backend_t backend) {
  static uint8_t bytes[4 * 4096];
  memset(bytes, 1, sizeof bytes);
  pf_source_t source = {.kind = PF_SOURCE_MEMORY, .fd = -1, .bytes = bytes};
  pf_region_t *region = open_region(backend, source, 4 * PAGE, OPTIONS());
  EXPECT_EQ(pf_pin_add(region, 1, 3), 0);
  EXPECT_EQ(pf_pin_add(region, 1, 2), 0);
  for (uint64_t page = 0; page < 4; page++) {
    EXPECT_EQ(touch(region, page * PAGE), 1);
  }
  memset(bytes, 2, sizeof bytes);
  EXPECT_EQ(pf_region_release(region, 0, 4), 2 * PAGE);
  pf_region_invalidate(region, 0, 4);
  EXPECT_EQ(touch(region, 0), 2);
  EXPECT_EQ(touch(region, PAGE), 1);
  EXPECT_EQ(touch(region, 2 * PAGE), 1);
  pf_pin_remove(region, 1, 2);
  EXPECT_EQ(touch(region, PAGE), 1); /* pinned twice */
  pf_pin_remove(region, 1, 3);
  EXPECT_EQ(touch(region, PAGE), 2);
  EXPECT_EQ(touch(region, 2 * PAGE), 2);
  EXPECT_EQ(counter(&region->counters.pinned_pages), 0);
  EXPECT(close_region(region));
}

/* --- the same in a storm ------------------------------------------------------------------------------------------------------------ */

#define STORM_PAGES 8

typedef struct {
  pf_region_t *region;
  int fd;
  _Atomic uint32_t version[STORM_PAGES]; /* at least this must be seen from now on */
  _Atomic int stop;
} storm_t;

UNWATCHED static uint32_t version_at(const pf_region_t *region, uint64_t page) {
  return *(const volatile uint32_t *)(region->base + (page << region->page_shift) + 512);
}

static void *read_in_storm(void *data) {
  storm_t *storm = data;
  uint64_t seed = (uint64_t)(uintptr_t)&seed | 1;
  while (!atomic_load(&storm->stop)) {
    uint64_t page = random_next(&seed) % STORM_PAGES;
    uint32_t least = atomic_load(&storm->version[page]);
    uint32_t seen = version_at(storm->region, page);
    EXPECT(seen >= least);
    if (seed % 16 == 0) {
      pf_region_release(storm->region, page, page + 1);
    }
    if (seed % 64 == 5 && pf_page_hold(storm->region, page) == 0) { /* invalidating a held page takes effect when it is let go */
      pf_page_unhold(storm->region, page);
    }
  }
  return NULL;
}

/* A page is written, invalidated, and from then on nobody may see what was before. Holds delay that, so the writer waits them out. */
static void stale_in_a_storm(pf_backend_t backend) {
  char path[64];
  make_path(path);
  for (size_t size = PAGE; size <= 16 * PAGE; size *= 16) {
    pf_budget_t *budget;
    must(pf_budget_create(STORM_PAGES * size, &budget) == 0, "a budget");
    storm_t storm = {.stop = 0};
    write_file(path, 0, STORM_PAGES * size);
    storm.fd = open(path, O_RDWR | O_CLOEXEC);
    uint32_t value = 0;
    for (uint64_t page = 0; page < STORM_PAGES; page++) {
      must(pwrite(storm.fd, &value, sizeof value, (off_t)(page * size + 512)) == sizeof value, "a write");
    }
    pf_source_t source = file_source_at(path, 0);
    source.check = false;
    storm.region = open_region(backend, source, STORM_PAGES * size, OPTIONS(.page_size = size, .budget = budget, .readahead = (int64_t)(2 * size)));
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
      must(pthread_create(&threads[i], NULL, read_in_storm, &storm) == 0, "a thread");
    }
    uint64_t end = pf_now_ns() + 700 * MS, latest = end + SOON, seed = 99;
    while (pf_now_ns() < end || (value <= 100 && pf_now_ns() < latest)) {
      uint64_t page = random_next(&seed) % STORM_PAGES;
      value++;
      must(pwrite(storm.fd, &value, sizeof value, (off_t)(page * size + 512)) == sizeof value, "a write");
      sigset_t before;
      pf_mask_signals(&before);
      pf_region_invalidate(storm.region, page, page + 1);
      pf_restore_signals(&before);
      while (atomic_load(&storm.region->states[page]) & PF_PINNED) { /* held by a reader: it goes in a moment */
        sched_yield();
      }
      while (atomic_load(&storm.region->states[page]) & PF_STALE) {
        sched_yield();
      }
      atomic_store(&storm.version[page], value);
    }
    atomic_store(&storm.stop, 1);
    for (int i = 0; i < 3; i++) {
      pthread_join(threads[i], NULL);
    }
    EXPECT(value > 100);
    close(storm.fd);
    EXPECT(close_region(storm.region));
    pf_budget_drop(budget);
  }
  unlink(path);
}

int main(void) {
  test_each("eight threads that touch one page make one store read", one_read);
  test_each("eight threads that scan a file make one read a page", one_read_of_a_file);
  test_each("pages of different threads are read in parallel", in_parallel);
  test_each("a page that is released while it is read is read again", released_while_loading);
  test_each("a page that is invalidated while it is read is read again", invalidated_while_loading);
  test_each("a page that is invalidated while its read fails is read again", refused_while_invalidated);
  test_each("a page of a changed file that is accepted while the page is read is read again", changed_while_invalidated);
  test_each("a run of which one page became old is given up and leaves nothing in memory", run_given_up);
  test_each("a page that is invalidated while it is opened is gone when invalidate returns", invalidated_while_installing);
  test_each("pinned pages stay when they are released, and invalidating them takes effect at the last unpin", invalidated_while_pinned);
  test_each("no thread ever sees a page as it was before it was invalidated", stale_in_a_storm);
  return summary();
}
