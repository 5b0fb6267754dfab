/* sanitizers: address,thread,none */
/*
 * Shared memory over parts of regions: filled once, seen by all, shadowed, taken off, evicted, written, by threads. What a page must hold is told by whose store filled it:
 * each store has a byte of its own. Between processes: object_processes_test.c.
 */
#include "object_support.h"

/* --- filling -------------------------------------------------------------------------------------------------------------------- */

static void filled_once(pf_backend_t backend) {
  shown_t a = show(backend, 16, 1, OPTIONS()), b = show(backend, 16, 2, OPTIONS(.page_size = 2 * PAGE));
  pf_object_t *object = make(4);
  EXPECT_EQ(pf_object_filled(object), 0);
  EXPECT_EQ(patch(a.region, 3, object), 0);
  EXPECT_EQ(patch(b.region, 1, object), 0);
  EXPECT_EQ(touch(a.region, 4 * PAGE), 1); /* the object's second page */
  EXPECT_EQ(pf_object_filled(object), PAGE);
  EXPECT_EQ(touch(b.region, 2 * PAGE), 2); /* the first: what is there already stays */
  EXPECT_EQ(touch(b.region, 3 * PAGE), 1);
  EXPECT_EQ(pf_object_filled(object), 2 * PAGE);
  EXPECT_EQ(touch(a.region, 3 * PAGE), 2);
  EXPECT_EQ(touch(b.region, 5 * PAGE), 2);
  EXPECT_EQ(touch(a.region, 6 * PAGE), 2);
  EXPECT_EQ(touch(a.region, 7 * PAGE), 1); /* not shared */
  EXPECT_EQ(counter(&a.region->counters.store_reads), 2);
  EXPECT_EQ(counter(&b.region->counters.store_reads), 2);
  hide(b, 16);
  pf_object_drop(object);
  EXPECT_EQ(touch(a.region, 5 * PAGE), 2); /* it outlives who filled it, and who made it */
  release(a.region, 0, 16);
  EXPECT_EQ(touch(a.region, 5 * PAGE), 2);
  unpatch(a.region);
  EXPECT_EQ(touch(a.region, 5 * PAGE), 1);
  hide(a, 16);
}

static bool is_filled(void *object) { return pf_object_filled(object) >= 4 * PAGE; }

/* One page in two places of a region, and in another region, touched by threads at the same time: one read. */
static void views(pf_backend_t backend) {
  for (int round = 0; round < (SLOW ? 20 : 100); round++) {
    shown_t a = show(backend, 16, 1, OPTIONS()), b = show(backend, 8, 2, OPTIONS());
    pf_object_t *object = make(4);
    EXPECT_EQ(patch(a.region, 0, object), 0);
    EXPECT_EQ(patch(a.region, 8, object), 0);
    EXPECT_EQ(patch(b.region, 4, object), 0);
    _Atomic int stop = 0;
    walker_t walkers[3] = {{a.region, 0, 4, 11, 1, 2, &stop, 0, 0}, {a.region, 8, 4, 22, 1, 2, &stop, 0, 0}, {b.region, 4, 4, 33, 1, 2, &stop, 0, 0}};
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
      must(pthread_create(&threads[i], NULL, walk, &walkers[i]) == 0, "a thread");
    }
    EXPECT(wait_until(is_filled, object, LONG_MS));
    atomic_store(&stop, 1);
    for (int i = 0; i < 3; i++) {
      pthread_join(threads[i], NULL);
      EXPECT_EQ(walkers[i].wrong, 0);
    }
    EXPECT_EQ(counter(&a.region->counters.store_reads) + counter(&b.region->counters.store_reads), 4);
    for (uint64_t page = 0; page < 4; page++) {
      EXPECT_EQ(touch(a.region, page * PAGE), touch(a.region, (8 + page) * PAGE));
      EXPECT_EQ(touch(a.region, page * PAGE), touch(b.region, (4 + page) * PAGE));
    }
    pf_object_drop(object);
    hide(a, 16);
    hide(b, 8);
  }
}

/* Fills all of an object with a byte. */
static pf_object_t *filled_with(pf_backend_t backend, size_t pages, uint8_t byte) {
  pf_object_t *object = make(pages);
  shown_t by = show(backend, pages, byte, OPTIONS());
  EXPECT_EQ(patch(by.region, 0, object), 0);
  for (size_t page = 0; page < pages; page++) {
    EXPECT_EQ(touch(by.region, page * PAGE), byte);
  }
  hide(by, pages);
  return object;
}

static void expect_bytes(pf_region_t *region, const char *bytes) {
  for (size_t page = 0; bytes[page] != '\0'; page++) {
    EXPECT_EQ(touch(region, page * PAGE), bytes[page] - '0');
  }
}

static void shadows(pf_backend_t backend) {
  unsigned descriptors = count_descriptors();
  shown_t a = show(backend, 16, 1, OPTIONS());
  pf_object_t *two = filled_with(backend, 8, 2), *three = filled_with(backend, 2, 3), *four = filled_with(backend, 4, 4), *five = filled_with(backend, 16, 5);
  expect_bytes(a.region, "1111111111111111");
  EXPECT_EQ(patch(a.region, 4, two), 0);
  expect_bytes(a.region, "1111222222221111");
  EXPECT_EQ(patch(a.region, 7, three), 0); /* the middle */
  expect_bytes(a.region, "1111222332221111");
  EXPECT_EQ(patch(a.region, 2, four), 0); /* the head */
  expect_bytes(a.region, "1144442332221111");
  EXPECT_EQ(patch(a.region, 10, four), 0); /* the tail */
  expect_bytes(a.region, "1144442332444411");
  EXPECT_EQ(patch(a.region, 14, three), 0); /* up to the end */
  expect_bytes(a.region, "1144442332444433");
  EXPECT_EQ(patch(a.region, 7, three), 0); /* the same place */
  expect_bytes(a.region, "1144442332444433");
  EXPECT_EQ(patch(a.region, 0, five), 0);
  expect_bytes(a.region, "5555555555555555");
  EXPECT_EQ(patch(a.region, 3, two), 0);
  expect_bytes(a.region, "5552222222255555");
  unpatch(a.region);
  expect_bytes(a.region, "1111111111111111");
  pf_object_t *all[] = {two, three, four, five};
  for (size_t i = 0; i < 4; i++) {
    pf_object_drop(all[i]);
  }
  hide(a, 16);
  EXPECT(count_descriptors() <= descriptors + 3); /* the engine's own, opened on first use */
}

/* Not whole pages, where that is the segment's end; and pages that the store has nothing of. */
static void ends(pf_backend_t backend) {
  shown_t a = show(backend, 16, 1, OPTIONS(.page_size = 4 * PAGE));
  pf_region_t *odd = open_region(backend, zero_source(), 8 * PAGE + 100, OPTIONS(.page_size = 4 * PAGE));
  pf_object_t *object = NULL;
  must(pf_object_create(4 * PAGE + 100, &object) == 0, "an object");
  EXPECT_EQ(patch(a.region, 2, object), 0); /* two pages of 4 */
  EXPECT_EQ(patch(odd, 1, object), 0);
  EXPECT_EQ(touch(a.region, 8 * PAGE), 1);
  EXPECT_EQ(touch(odd, 4 * PAGE), 1);
  EXPECT_EQ(touch(odd, 8 * PAGE + 99), 0);
  EXPECT_EQ(touch(a.region, 12 * PAGE), 0);
  EXPECT_EQ(pf_object_filled(object), 4 * PAGE + 100);
  pf_object_drop(object);
  EXPECT(close_region(odd));
  hide(a, 16);
}

/* --- late ------------------------------------------------------------------------------------------------------------------------- */

static struct sigaction ours;
static _Atomic int caught, go, touched;

static void on_late(int number, siginfo_t *info, void *context) {
  atomic_store(&caught, 1);
  while (!atomic_load(&go)) {
    pf_sleep_until(pf_now_ns() + MS);
  }
  ours.sa_sigaction(number, info, context);
}

static void *touch_first(void *data) {
  shown_t *shown = data;
  uintptr_t byte = touch(shown->region, 0);
  atomic_store(&touched, 1);
  return (void *)byte;
}

/* True when nobody has put our handler back on top meanwhile. */
static bool meet_late(shown_t *a, pf_backend_t backend) {
  uint64_t forwarded = pf_signal_forwarded(), reinstalls = pf_signal_reinstalls();
  struct sigaction mine = {.sa_sigaction = on_late, .sa_flags = SA_SIGINFO | SA_NODEFER};
  atomic_store(&caught, 0);
  atomic_store(&go, 0);
  atomic_store(&touched, 0);
  must(pf_mem_protect(a->region->base, PAGE, PROT_NONE) == 0 && sigaction(SIGSEGV, &mine, &ours) == 0, "a moment");
  pthread_t thread;
  must(pthread_create(&thread, NULL, touch_first, a) == 0, "a thread");
  while (!atomic_load(&caught) && !atomic_load(&touched)) {
    pf_sleep_until(pf_now_ns() + MS);
  }
  must(sigaction(SIGSEGV, &ours, NULL) == 0 && pf_mem_protect(a->region->base, PAGE, backend == PF_BACKEND_MPROTECT ? PROT_NONE : PROT_READ) == 0, "its end");
  atomic_store(&a->region->remapped_at, pf_now_ns() - 3600000 * MS);
  atomic_store(&go, 1);
  void *byte = NULL;
  pthread_join(thread, &byte);
  EXPECT_EQ((uintptr_t)byte, 1);
  bool alone = pf_signal_reinstalls() == reinstalls;
  EXPECT(!alone || pf_signal_forwarded() == forwarded);
  return alone;
}

/* A thread meets memory that is inaccessible because another is being laid over it, and is not heard of before that is long over. */
static void late(pf_backend_t backend) {
  shown_t a = show(backend, 16, 1, OPTIONS());
  pf_object_t *object = make(4);
  EXPECT_EQ(patch(a.region, 0, object), 0);
  while (!meet_late(&a, backend)) {
  }
  pf_object_drop(object);
  hide(a, 16);
}

/* --- in the way ------------------------------------------------------------------------------------------------------------------- */

static void in_the_way(pf_backend_t backend) {
  shown_t a = show(backend, 16, 1, OPTIONS(.writable = true));
  pf_object_t *object = make(4);
  put(a.region, 5 * PAGE, 9);
  EXPECT_EQ(patch(a.region, 4, object), -EEXIST);
  EXPECT_EQ(touch(a.region, 5 * PAGE), 9);
  EXPECT_EQ(patch(a.region, 6, object), 0); /* beside it */
  sigset_t before;
  pf_mask_signals(&before);
  EXPECT(pf_region_discard(a.region, 0, 16));
  EXPECT_EQ(pf_pin_add(a.region, 2, 3), 0);
  pf_restore_signals(&before);
  EXPECT_EQ(touch(a.region, 2 * PAGE), 1);
  EXPECT_EQ(patch(a.region, 0, object), -EBUSY);
  EXPECT_EQ(patch(a.region, 3, object), 0);
  put(a.region, 4 * PAGE, 7);
  unpatch(a.region); /* one of its pages is dirty: it stays, though the part of the other patch that it left goes */
  EXPECT_EQ(touch(a.region, 4 * PAGE), 7);
  EXPECT_EQ(dirty_pages(a.region), 1);
  pf_mask_signals(&before);
  pf_pin_remove(a.region, 2, 3);
  EXPECT(pf_region_discard(a.region, 0, 16));
  pf_restore_signals(&before);
  EXPECT_EQ(touch(a.region, 4 * PAGE), 7); /* what is shared stays as it is; that it was written here is forgotten */
  EXPECT_EQ(dirty_pages(a.region), 0);
  unpatch(a.region);
  EXPECT_EQ(touch(a.region, 4 * PAGE), 1);
  pf_object_drop(object);
  hide(a, 16);
}

static void refuses(pf_backend_t backend) {
  (void)backend;
  pf_object_t *object = make(4), *again = NULL;
  int ends_of_pipe[2], plain = memfd_create("plain", MFD_ALLOW_SEALING | MFD_CLOEXEC);
  must(pipe2(ends_of_pipe, O_CLOEXEC) == 0 && plain >= 0, "descriptors");
  EXPECT_EQ(pf_object_adopt(-1, &again), -EINVAL);
  EXPECT_EQ(pf_object_adopt(ends_of_pipe[0], &again), -EINVAL);
  EXPECT_EQ(pf_object_adopt(plain, &again), -EINVAL);
  struct stat size;
  must(fstat(pf_object_fd(object), &size) == 0 && ftruncate(plain, size.st_size) == 0, "a copy");
  char last[4096];
  must(pread(pf_object_fd(object), last, PAGE, size.st_size - (off_t)PAGE) == (ssize_t)PAGE, "the last page");
  must(pwrite(plain, last, PAGE, size.st_size - (off_t)PAGE) == (ssize_t)PAGE, "the last page");
  EXPECT_EQ(pf_object_adopt(plain, &again), -EINVAL); /* could be cut off */
  must(fcntl(plain, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0, "seals");
  EXPECT_EQ(pf_object_adopt(plain, &again), 0); /* as good as one of ours */
  pf_object_drop(again);
  EXPECT(ftruncate(pf_object_fd(object), 0) != 0);
  EXPECT_EQ(pf_object_adopt(pf_object_fd(object), &again), 0);
  EXPECT_EQ(pf_object_length(again), 4 * PAGE);
  pf_object_drop(again);
  pf_object_drop(object);
  EXPECT_EQ(pf_object_create(0, &object), -EINVAL);
  close(plain);
  close(ends_of_pipe[0]);
  close(ends_of_pipe[1]);
}

/* --- writing and evicting --------------------------------------------------------------------------------------------------------- */

static void written(pf_backend_t backend) {
  shown_t a = show(backend, 16, 1, OPTIONS(.writable = true)), b = show(backend, 16, 2, OPTIONS(.writable = true));
  pf_object_t *object = make(4);
  EXPECT_EQ(patch(a.region, 0, object), 0);
  EXPECT_EQ(patch(a.region, 8, object), 0);
  EXPECT_EQ(patch(b.region, 4, object), 0);
  put(a.region, 1 * PAGE, 10);
  put(b.region, 6 * PAGE, 20);
  EXPECT_EQ(touch(b.region, 5 * PAGE), 10);
  EXPECT_EQ(touch(a.region, 10 * PAGE), 20);
  EXPECT_EQ(touch(a.region, 2 * PAGE), 20);
  EXPECT_EQ(dirty_pages(a.region), 1); /* what was written through it */
  EXPECT_EQ(dirty_pages(b.region), 1);
  EXPECT_EQ(flush(a.region), PF_OK);
  EXPECT_EQ(a.bytes[1 * PAGE], 10);
  EXPECT_EQ(a.bytes[2 * PAGE], 1);
  EXPECT_EQ(dirty_pages(a.region), 0);
  EXPECT_EQ(dirty_pages(b.region), 1);
  put(a.region, 1 * PAGE + 1, 11);
  EXPECT_EQ(dirty_pages(a.region), 1); /* seen again */
  put(a.region, 9 * PAGE + 2, 12); /* the same page in the other place */
  EXPECT_EQ(dirty_pages(a.region), 2);
  EXPECT_EQ(flush(a.region), PF_OK);
  EXPECT_EQ(a.bytes[9 * PAGE + 2], 12);
  EXPECT_EQ(a.bytes[1 * PAGE + 2], 12);
  EXPECT_EQ(flush(b.region), PF_OK);
  EXPECT_EQ(b.bytes[6 * PAGE], 20);
  EXPECT_EQ(b.bytes[5 * PAGE], 2);
  pf_object_drop(object);
  hide(a, 16);
  hide(b, 16);
}

static void evicted(pf_backend_t backend) {
  pf_budget_t *budget = NULL;
  must(pf_budget_create(8 * PAGE, &budget) == 0, "a budget");
  shown_t a = show(backend, 64, 1, OPTIONS(.writable = true, .budget = budget)), b = show(backend, 64, 2, OPTIONS(.writable = true));
  pf_object_t *object = make(32);
  EXPECT_EQ(patch(b.region, 0, object), 0);
  EXPECT_EQ(patch(a.region, 16, object), 0);
  for (uint64_t round = 0; round < 3; round++) {
    for (uint64_t page = 0; page < 64; page++) {
      put(a.region, page * PAGE + round, (uint8_t)(page + round));
      pf_budget_numbers_t numbers;
      pf_budget_numbers(budget, &numbers);
      EXPECT(numbers.used <= 8 * PAGE);
    }
  }
  for (uint64_t page = 0; page < 32; page++) {
    EXPECT_EQ(touch(b.region, page * PAGE + 2), (uint8_t)(page + 16 + 2));
  }
  EXPECT(counter(&a.region->counters.evictions) > 0);
  EXPECT_EQ(flush(a.region), PF_OK);
  for (uint64_t page = 0; page < 64; page++) {
    for (uint64_t round = 0; round < 3; round++) {
      EXPECT_EQ(a.bytes[page * PAGE + round], (uint8_t)(page + round));
    }
    EXPECT_EQ(touch(a.region, page * PAGE + 1), (uint8_t)(page + 1));
  }
  EXPECT_EQ(pf_object_filled(object), 32 * PAGE); /* evicting a page takes it from one region only */
  unpatch(a.region);
  EXPECT_EQ(touch(a.region, 20 * PAGE + 1), 21);
  pf_object_drop(object);
  hide(a, 64);
  hide(b, 64);
  pf_budget_drop(budget);
}

/* --- under touching threads --------------------------------------------------------------------------------------------------------- */

static void under_threads(pf_backend_t backend) {
  shown_t a = show(backend, 64, 1, OPTIONS(.writable = true)), b = show(backend, 64, 2, OPTIONS());
  unsigned mappings = 0, descriptors = 0;
  _Atomic int stop = 0;
  walker_t walkers[3] = {{a.region, 0, 64, 1, 1, 4, &stop, 0, 0}, {a.region, 8, 32, 2, 1, 4, &stop, 0, 0}, {b.region, 0, 64, 3, 1, 4, &stop, 0, 0}};
  pthread_t threads[3];
  for (int i = 0; i < 3; i++) {
    must(pthread_create(&threads[i], NULL, walk, &walkers[i]) == 0, "a thread");
  }
  uint64_t seed = 77, end = pf_now_ns() + 1500 * MS, latest = end + SOON, rounds = 0;
  while (pf_now_ns() < end || (rounds <= 5 && pf_now_ns() < latest)) {
    pf_object_t *object = make(16);
    EXPECT_EQ(patch(a.region, random_next(&seed) % 48, object), 0);
    EXPECT_EQ(patch(b.region, random_next(&seed) % 48, object), 0);
    EXPECT_EQ(patch(a.region, random_next(&seed) % 48, object), 0);
    pf_object_drop(object);
    if (random_next(&seed) % 2 == 0) {
      unpatch(a.region);
      unpatch(b.region);
    }
    rounds++;
  }
  atomic_store(&stop, 1);
  for (int i = 0; i < 3; i++) {
    pthread_join(threads[i], NULL);
    EXPECT_EQ(walkers[i].wrong, 0);
    EXPECT(walkers[i].touches > 0);
  }
  EXPECT(rounds > 5);
  latest = pf_now_ns() + SOON;
  for (int round = 0; round < 1000 / (SLOW ? 4 : 1) && (round < 50 || pf_now_ns() < latest); round++) { /* and nothing is left behind */
    if (round == 1) {
      mappings = count_mappings();
      descriptors = count_descriptors();
    }
    pf_object_t *object = make(16);
    EXPECT_EQ(patch(a.region, 8, object), 0);
    EXPECT_EQ(patch(b.region, 0, object), 0);
    EXPECT_EQ(touch(a.region, 9 * PAGE), 1);
    EXPECT_EQ(touch(b.region, 1 * PAGE), 1);
    unpatch(a.region);
    unpatch(b.region);
    pf_object_drop(object);
  }
  EXPECT_EQ(count_descriptors(), descriptors);
  EXPECT(count_mappings() <= mappings + (SLOW ? 20 : 2));
  hide(a, 64);
  hide(b, 64);
}

/* Writers of their own slots in pages that are shared, while the budgets of both regions evict and flushes run: nothing is lost. */
typedef struct {
  pf_region_t *region;
  uint64_t first, slot;
  _Atomic int *stop;
  uint64_t wrong, last[16];
} writer_t;

UNWATCHED static uint64_t load_word(const pf_region_t *region, uint64_t offset) { return *(const volatile uint64_t *)(region->base + offset); }
UNWATCHED static void store_word(const pf_region_t *region, uint64_t offset, uint64_t value) { *(volatile uint64_t *)(region->base + offset) = value; }

static void *write_on(void *data) {
  writer_t *writer = data;
  uint64_t seed = 1000 + writer->slot;
  while (!atomic_load(writer->stop)) {
    uint64_t page = random_next(&seed) % 16, offset = (writer->first + page) * PAGE + 64 * writer->slot;
    writer->wrong += load_word(writer->region, offset) != writer->last[page];
    store_word(writer->region, offset, ++writer->last[page]);
  }
  return NULL;
}

static uint64_t evictions(const shown_t *a, const shown_t *b) {
  return counter(&a->region->counters.evictions) + counter(&b->region->counters.evictions);
}

static void writers(pf_backend_t backend) {
  pf_budget_t *budget = NULL;
  must(pf_budget_create(24 * PAGE, &budget) == 0, "a budget");
  shown_t a = show(backend, 64, 0, OPTIONS(.writable = true, .budget = budget)), b = show(backend, 64, 0, OPTIONS(.writable = true, .budget = budget));
  pf_object_t *object = make(16);
  EXPECT_EQ(patch(a.region, 32, object), 0);
  EXPECT_EQ(patch(b.region, 0, object), 0);
  _Atomic int stop = 0;
  static writer_t all[3];
  pthread_t threads[3];
  for (uint64_t i = 0; i < 3; i++) {
    all[i] = (writer_t){.region = i < 2 ? a.region : b.region, .first = i < 2 ? 32 : 0, .slot = i, .stop = &stop};
    must(pthread_create(&threads[i], NULL, write_on, &all[i]) == 0, "a thread");
  }
  for (uint64_t end = pf_now_ns() + 1000 * MS, latest = end + SOON; pf_now_ns() < end || (evictions(&a, &b) == 0 && pf_now_ns() < latest);) {
    EXPECT_EQ(flush(a.region), PF_OK);
    EXPECT_EQ(flush(b.region), PF_OK);
    release(a.region, 0, 64);
    touch(a.region, (pf_now_ns() / 1000 % 32) * PAGE);
  }
  atomic_store(&stop, 1);
  for (int i = 0; i < 3; i++) {
    pthread_join(threads[i], NULL);
    EXPECT_EQ(all[i].wrong, 0);
  }
  EXPECT_EQ(flush(a.region), PF_OK);
  EXPECT_EQ(flush(b.region), PF_OK);
  for (uint64_t page = 0; page < 16; page++) {
    for (uint64_t i = 0; i < 3; i++) {
      uint64_t value;
      memcpy(&value, (i < 2 ? a.bytes + (32 + page) * PAGE : b.bytes + page * PAGE) + 64 * i, sizeof value);
      EXPECT_EQ(value, all[i].last[page]);
    }
  }
  EXPECT(evictions(&a, &b) > 0);
  pf_object_drop(object);
  hide(a, 64);
  hide(b, 64);
  pf_budget_drop(budget);
}

static void all_tests(void) {
  test_all("a page is filled once, by whoever touches it first, and seen by all", filled_once);
  test_all("one page in three places, touched at the same time, is read once", views);
  test_all("later patches shadow earlier ones, wholly and in part", shadows);
  test_all("memory may end where the segment ends, within a page", ends);
  test_all("a thread that met memory while it was laid over goes on, however late it is heard", late);
  test_all("dirty and pinned pages are in the way, and keep a patch", in_the_way);
  test_all("what is no shared memory is refused", refuses);
  test_all("what is written is everybody's, and each region's own to flush", written);
  test_all("evicting takes a page from one region only", evicted);
  test_all("patches come and go under threads that touch them", under_threads);
  test_all("writes to shared pages are not lost, whatever is evicted and flushed", writers);
}

int main(int count, char **arguments) { return run_all(count, arguments, all_tests); }
