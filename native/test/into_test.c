/* sanitizers: address,thread,none */
/*
 * Memory that exists, and that somebody else believes to be his own: he makes it longer (as V8 does with a WebAssembly.Memory: all of it is made writable), gets
 * faults for what lies outside, and gives it away again when a region is closed.
 */
#include "support.h"

#include "uapi.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/ioctl.h>

/* --- an owner ---------------------------------------------------------------------------------------------------------------- */

static sigjmp_buf outside;

/* V8's trap handler: it was there before ours. */
static void on_outside(int number, siginfo_t *info, void *context) {
  (void)number, (void)info, (void)context;
  siglongjmp(outside, 1);
}

/* True when the access is handed on to the owner's handler. */
UNWATCHED static bool traps(uint8_t *addr, bool writes) {
  if (sigsetjmp(outside, 1) != 0) {
    return true;
  }
  if (writes) {
    *(volatile uint8_t *)addr = 1;
  } else {
    touch_address(addr);
  }
  return false;
}

static uint8_t *reserve(size_t pages) {
  uint8_t *memory = mmap(NULL, pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  must(memory != MAP_FAILED, "a reserve");
  return memory;
}

static void grow(uint8_t *memory, size_t pages) { must(mprotect(memory, pages * PAGE, PROT_READ | PROT_WRITE) == 0, "growth"); }

/* Closes it as `into` is closed: its memory stays. */
static void close_into(pf_region_t *region) {
  pf_region_close(region, false);
  pf_region_leave(region);
  pf_region_reap();
}

static pf_region_t *open_into(pf_backend_t backend, uint8_t *memory, size_t exists, size_t pages, bool grows) {
  return open_region(backend, memory_source(pages * PAGE), pages * PAGE,
                     OPTIONS(.into = memory, .into_length = exists * PAGE, .into_grows = grows, .shared = true));
}

/* --- tests --------------------------------------------------------------------------------------------------------------------- */

static void grows(pf_backend_t backend) {
  uint8_t *memory = reserve(64);
  grow(memory, 8);
  pf_region_t *region = open_into(backend, memory, 8, 40, true);
  region->readahead_pages = 20;
  for (size_t pages = 8; pages <= 40; pages += 8) {
    EXPECT_EQ(first_difference(region, 0, pages * PAGE, 0, pages * PAGE), pages * PAGE);
    for (uint64_t page = pages; page < 40; page++) {
      EXPECT_EQ(state_of(region, page), PF_ABSENT); /* nothing is read ahead into what is not there */
    }
    EXPECT(traps(memory + pages * PAGE, false));
    EXPECT(traps(memory + pages * PAGE + 5, true));
    EXPECT(traps(memory + 63 * PAGE, true));
    grow(memory, pages + 8);
  }
  EXPECT_EQ(touch_address(memory + 41 * PAGE), 0);
  EXPECT(!traps(memory + 41 * PAGE, true));
  EXPECT_EQ(pf_region_release(region, 0, region->page_count), 40 * PAGE);
  EXPECT_EQ(first_difference(region, 0, 40 * PAGE, 0, 40 * PAGE), 40 * PAGE);
  EXPECT(close_region(region));
  munmap(memory, 64 * PAGE);
}

static void is_given_again(pf_backend_t backend) {
  uint8_t *memory = reserve(64);
  unsigned before = pf_region_count();
  grow(memory, 64);
  static const size_t lengths[] = {64, 10, 30, 1, 64, 63, 2, 64};
  for (size_t round = 0; round < 8 * sizeof lengths / sizeof *lengths; round++) {
    size_t pages = lengths[round % (sizeof lengths / sizeof *lengths)];
    pf_backend_t which = round % 3 != 0 || !backend_works(PF_BACKEND_SIGNAL) ? backend : round & 1 ? PF_BACKEND_SIGNAL : PF_BACKEND_MPROTECT;
    pf_region_t *region = open_into(which, memory, 64, pages, false);
    EXPECT_EQ(first_difference(region, 0, pages * PAGE, 0, pages * PAGE), pages * PAGE);
    /* Whoever has what the earlier ones left behind: it is found, and closed. */
    pf_region_t *rest = pf_region_at((uintptr_t)memory + 63 * PAGE);
    EXPECT(rest != NULL && (pages == 64 ? rest == region : atomic_load(&rest->phase) == PF_PHASE_CLOSED));
    if (rest != NULL) {
      pf_region_leave(rest);
    }
    close_into(region);
  }
  EXPECT(pf_region_count() <= before + 3);
  pf_region_t *last = open_into(backend, memory, 64, 64, false);
  EXPECT_EQ(pf_region_count(), before + 1);
  EXPECT(close_region(last));
  munmap(memory, 64 * PAGE);
}

static int refusal(pf_region_options_t options, pf_backend_t backend, size_t pages) {
  const char *step = "";
  pf_region_t *region = NULL;
  options.backend = backend;
  options.source = zero_source();
  options.byte_length = options.store_length = pages * PAGE;
  options.page_size = PAGE;
  options.timeout_ms = 1000;
  options.name = options.store_name = "refused";
  return pf_region_create(&options, &region, &step);
}

static void is_refused(pf_backend_t backend) {
  uint8_t *memory = reserve(64);
  grow(memory, 32);
  memset(memory, 0x5a, 32 * PAGE);
  pf_region_t *first = open_into(backend, memory + 8 * PAGE, 8, 8, false);
  EXPECT_EQ(refusal(OPTIONS(.into = memory, .into_length = 32 * PAGE), backend, 9), -EBUSY);
  EXPECT_EQ(refusal(OPTIONS(.into = memory + 15 * PAGE, .into_length = PAGE), backend, 1), -EBUSY);
  EXPECT_EQ(refusal(OPTIONS(.into = memory + 16 * PAGE, .into_length = 16 * PAGE, .into_grows = true), backend, 49), -EOPNOTSUPP);
  if (backend == PF_BACKEND_MPROTECT) {
    EXPECT_EQ(refusal(OPTIONS(.into = memory + 16 * PAGE, .into_length = 16 * PAGE, .into_grows = true), backend, 16), -EOPNOTSUPP);
  }
  EXPECT_EQ(touch_address(memory + 7 * PAGE), 0x5a);
  EXPECT_EQ(touch_address(memory + 16 * PAGE), 0x5a);
  EXPECT_EQ(touch(first, 3 * PAGE), pattern(3 * PAGE));
  close_into(first);
  munmap(memory + 20 * PAGE, PAGE);
  unsigned char there;
  if (mincore(memory + 20 * PAGE, PAGE, &there) != 0) { /* else another thread has got the hole meanwhile */
    EXPECT_EQ(refusal(OPTIONS(.into = memory, .into_length = 32 * PAGE), backend, 24), -EFAULT);
  }
  pf_region_t *last = open_into(backend, memory + 8 * PAGE, 8, 8, false);
  EXPECT(close_region(last));
  munmap(memory, 64 * PAGE);
}

/* The budget cannot number so many pages, which shows only after the memory was dropped. */
static void is_ordinary_after_a_failure(pf_backend_t backend) {
  uint8_t *memory = reserve(64);
  grow(memory, 64);
  pf_budget_t *budget;
  if (TSAN) { /* has no addresses to spare */
    return;
  }
  must(pf_budget_create(64 * PAGE, &budget) == 0, "a budget");
  pf_region_t *huge = open_region(backend, zero_source(), (uint64_t)PF_BUDGET_PAGES_MAX * PAGE - PAGE, OPTIONS(.budget = budget));
  EXPECT_EQ(refusal(OPTIONS(.into = memory + 24 * PAGE, .into_length = 8 * PAGE, .budget = budget), backend, 8), -ENOSPC);
  EXPECT(!traps(memory + 25 * PAGE, true));
  EXPECT_EQ(touch_address(memory + 25 * PAGE), 1);
  EXPECT_EQ(touch_address(memory + 26 * PAGE), 0);
  EXPECT(close_region(huge));
  pf_budget_drop(budget);
  munmap(memory, 64 * PAGE);
}

static _Atomic bool refusing;

int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void *argument = va_arg(list, void *);
  va_end(list);
  if (atomic_load(&refusing) && request == PF_UFFDIO_REGISTER) {
    errno = ENOMEM;
    return -1;
  }
  return (int)syscall(SYS_ioctl, fd, request, argument);
}

/* The kernel has no memory to register it, which shows only after it was mapped. */
static void leaves_nothing_behind(pf_backend_t backend) {
  uint8_t *memory = reserve(64);
  grow(memory, 64);
  unsigned before = 0;
  for (int round = 0; round < 40; round++) {
    atomic_store(&refusing, true);
    EXPECT_EQ(refusal(OPTIONS(.into = memory, .into_length = 64 * PAGE), backend, 64), -ENOMEM);
    atomic_store(&refusing, false);
    before = round == 0 ? count_mappings() : before;
    EXPECT_EQ(touch_address(memory + 25 * PAGE), 0);
  }
  EXPECT(count_mappings() < before + 30);
  munmap(memory, 64 * PAGE);
}

/* A file, shared memory, memory that cannot be written: what it was does not matter. */
static void may_be_of_any_kind(pf_backend_t backend) {
  int fd = memfd_create("kinds", MFD_CLOEXEC);
  must(fd >= 0 && ftruncate(fd, (off_t)(8 * PAGE)) == 0, "a memfd");
  for (int kind = 0; kind < 4; kind++) {
    int prot = kind & 1 ? PROT_READ : PROT_READ | PROT_WRITE;
    uint8_t *memory = mmap(NULL, 8 * PAGE, prot, (kind & 2) ? MAP_SHARED : MAP_PRIVATE, fd, 0);
    must(memory != MAP_FAILED, "a mapping");
    pf_region_t *region = open_into(backend, memory, 8, 6, false);
    EXPECT_EQ(first_difference(region, 0, 6 * PAGE, 0, 6 * PAGE), 6 * PAGE);
    EXPECT_EQ(touch_address(memory + 7 * PAGE), 0);
    EXPECT(close_region(region));
    munmap(memory, 8 * PAGE);
  }
  close(fd);
}

#define GROWTHS 24

typedef struct {
  pf_region_t *region;
  uint8_t *memory;
  _Atomic uint64_t length; /* pages that are there for sure */
  _Atomic uint64_t wrong, touches;
  uint64_t enough; /* of touches, until it grows again */
} growing_t;

static bool is_touched(void *data) {
  const growing_t *growing = data;
  return atomic_load(&growing->touches) >= growing->enough;
}

UNWATCHED static void *touch_randomly(void *data) {
  growing_t *growing = data;
  uint64_t seed = (uintptr_t)&growing ^ (uintptr_t)pthread_self(), length;
  while ((length = atomic_load(&growing->length)) < GROWTHS * 16) {
    uint64_t offset = random_next(&seed) % (length * PAGE);
    if (touch_address(growing->memory + offset) != pattern(offset)) {
      atomic_fetch_add(&growing->wrong, 1);
    }
    atomic_fetch_add(&growing->touches, 1);
  }
  return NULL;
}

static void grows_under_eight_threads(pf_backend_t backend) {
  uint8_t *memory = reserve(GROWTHS * 16 + 16);
  grow(memory, 16);
  pf_budget_t *budget;
  must(pf_budget_create(96 * PAGE, &budget) == 0, "a budget");
  size_t len = GROWTHS * 16 * PAGE;
  growing_t growing = {.memory = memory, .length = 16};
  growing.region = open_region(backend, memory_source(len), len,
                               OPTIONS(.into = memory, .into_length = 16 * PAGE, .into_grows = true, .shared = true, .budget = budget, .readahead = -1));
  pthread_t threads[8];
  for (int i = 0; i < 8; i++) {
    must(pthread_create(&threads[i], NULL, touch_randomly, &growing) == 0, "a thread");
  }
  for (size_t round = 1; round <= GROWTHS; round++) {
    growing.enough = atomic_load(&growing.touches) + 64;
    EXPECT(wait_until(is_touched, &growing, LONG_MS));
    grow(memory, round * 16);
    atomic_store(&growing.length, round * 16);
  }
  for (int i = 0; i < 8; i++) {
    pthread_join(threads[i], NULL);
  }
  EXPECT_EQ(atomic_load(&growing.wrong), 0);
  EXPECT(counter(&growing.region->counters.evictions) > 0);
  EXPECT(close_region(growing.region));
  pf_budget_drop(budget);
  munmap(memory, GROWTHS * 16 * PAGE + 16 * PAGE);
}

int main(void) {
  struct sigaction owner = {.sa_sigaction = on_outside, .sa_flags = SA_SIGINFO};
  sigaction(SIGSEGV, &owner, NULL);
  test_on(PF_BACKEND_SIGNAL, "memory is paged where it grows, and a fault behind its end is its owner's", grows);
  test_each("memory of closed regions is paged again, shorter, longer, on another backend", is_given_again);
  test_each("memory that cannot be paged is refused, and stays as it is", is_refused);
  test_each("memory is ordinary again when it could not be paged after all", is_ordinary_after_a_failure);
  test_on(PF_BACKEND_SIGNAL, "what was mapped for memory that cannot be paged is unmapped", leaves_nothing_behind);
  test_on(PF_BACKEND_MEMFD, "what was mapped for memory that cannot be paged is unmapped", leaves_nothing_behind);
  test_each("whatever stood behind the memory, the region's pages take its place", may_be_of_any_kind);
  test_on(PF_BACKEND_SIGNAL, "memory grows while eight threads touch it", grows_under_eight_threads);
  return summary();
}
