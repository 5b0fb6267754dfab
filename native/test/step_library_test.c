/* sanitizers: address,thread,none */
/* Tests of step.c with code that others wrote: the C library and loops of atomic operations read and write pages that may not be touched, in several threads too. */
#include "step_machine.h"

#if !defined(__x86_64__)

int main(void) { return summary(); }

#else

/* --- the C library over a bad page --- */

/* Through pointers, so that the compiler does not put its own code in place of the calls. */
static void *(*volatile copy)(void *, const void *, size_t) = memcpy;
static void *(*volatile move)(void *, const void *, size_t) = memmove;
static void *(*volatile set)(void *, int, size_t) = memset;
static int (*volatile compare)(const void *, const void *, size_t) = memcmp;
static void *(*volatile search)(const void *, int, size_t) = memchr;

static void test_library(void) {
  uint8_t *into = aligned_alloc(PAGE, ARENA_PAGES * PAGE);
  must(into != NULL, "aligned_alloc");
  set_bad(arena, PROT_NONE);
  memset(arena, 0x11, PAGE);
  memset(arena + 2 * PAGE, 0x22, PAGE);
  memset(arena + 4 * PAGE, 0x33, PAGE);
  memset(&seen, 0, sizeof seen);

  memset(into, 0xaa, ARENA_PAGES * PAGE);
  copy(into, arena, 3 * PAGE);
  check(all(into, PAGE, 0x11) && all(into + PAGE, PAGE, 0) && all(into + 2 * PAGE, PAGE, 0x22), "memcpy copies zeroes for a bad page and data for good ones", NULL);

  for (size_t len = 1; len < 600; len += len < 70 ? 1 : 37) {
    memset(into, 0xaa, PAGE);
    copy(into + 8, arena + PAGE + 24, len);
    check(all(into, 8, 0xaa) && all(into + 8, len, 0) && all(into + 8 + len, 64, 0xaa), "memcpy of any length stays in its bounds", NULL);
  }

  memset(into, 0xaa, ARENA_PAGES * PAGE);
  copy(into + 3, arena + PAGE - 1000, PAGE + 2000);
  check(all(into + 3, 1000 - 64, 0x11) && all(into + 3 + 1000, PAGE, 0) && all(into + 3 + 1000 + PAGE + 64, 1000 - 64, 0x22) && into[3 + 2000 + PAGE] == 0xaa,
        "memcpy of unaligned data loses no more than one operand beside the bad page", NULL);

  memset(into, 0xaa, ARENA_PAGES * PAGE);
  move(into, arena, ARENA_PAGES * PAGE);
  check(all(into + PAGE, PAGE, 0) && all(into + 3 * PAGE, PAGE, 0) && all(into + 4 * PAGE, PAGE, 0x33), "memmove copies over two bad pages", NULL);

  check(compare(arena, into, ARENA_PAGES * PAGE) == 0, "memcmp sees zeroes on a bad page", NULL);
  check(compare(arena + PAGE, arena + 3 * PAGE, PAGE) == 0, "memcmp compares two bad pages", NULL);
  into[PAGE + 1234] = 1;
  check(compare(arena + PAGE, into + PAGE, PAGE) < 0, "memcmp finds a difference on a bad page", NULL);
  check(search(arena, 0x22, 3 * PAGE) == arena + 2 * PAGE, "memchr searches on behind a bad page", NULL);
  check(search(arena, 0, 3 * PAGE) == arena + PAGE, "memchr finds a zero on a bad page", NULL);
  check(search(arena + PAGE + 5, 0x77, PAGE - 5) == NULL, "memchr finds nothing else there", NULL);
  check(strnlen((char *)arena + PAGE, PAGE) == 0, "strnlen finds the end at once", NULL);
  check(seen.refused == 0 && seen.redirected > 0, "nothing of this was refused", NULL);

  int ends[2];
  must(pipe(ends) == 0, "pipe");
  errno = 0;
  check(write(ends[1], arena + PAGE, 1) == -1 && errno == EFAULT, "the bad page is not mapped afterwards", NULL);
  close(ends[0]);
  close(ends[1]);
  memset(arena, 0, PAGE);
  memset(arena + 2 * PAGE, 0, PAGE);
  memset(arena + 4 * PAGE, 0, PAGE);
  free(into);
}

/* The C library writes to bad pages. */
static void test_library_writes(void) {
  uint8_t *from = aligned_alloc(PAGE, ARENA_PAGES * PAGE);
  must(from != NULL, "aligned_alloc");
  memset(from, 0x77, ARENA_PAGES * PAGE);
  memset(&seen, 0, sizeof seen);

  set_arena(0x11);
  copy(arena, from, 3 * PAGE);
  check(bad_hold(0x11) && all(arena, PAGE, 0x77) && all(arena + 2 * PAGE, PAGE, 0x77),
        "memcpy to a bad page is thrown away, to good ones it is not", NULL);

  set_arena(0x11);
  set(arena, 0x66, ARENA_PAGES * PAGE);
  check(bad_hold(0x11) && all(arena, PAGE, 0x66) && all(arena + 2 * PAGE, PAGE, 0x66) && all(arena + 4 * PAGE, PAGE, 0x66),
        "memset of a bad page is thrown away, of good ones it is not", NULL);

  for (size_t len = 1; len < 600; len += len < 70 ? 1 : 37) {
    set_arena(0x11);
    copy(arena + PAGE + 24, from, len);
    set(arena + PAGE + 1000, 0x66, len);
    check(bad_hold(0x11), "memcpy and memset of any length are thrown away", NULL);
  }

  set_arena(0x11);
  copy(arena + PAGE - 1000, from + 3, PAGE + 2000);
  check(bad_hold(0x11) && all(arena + PAGE - 1000, 1000 - 64, 0x77) && all(arena + 2 * PAGE + 64, 1000 - 64, 0x77) &&
        all(arena + 2 * PAGE + 1000, 64, 0x11),
        "memcpy loses no more than one operand beside the bad page", NULL);

  set_arena(0x11);
  move(arena + 100, arena, ARENA_PAGES * PAGE - 100);
  check(bad_hold(0x11) && all(arena, PAGE - 64, 0x11), "memmove goes on over bad pages", NULL);
  check(seen.refused == 0 && seen.redirected > 0, "nothing of this was refused", NULL);
  set_bad(arena, PROT_READ | PROT_WRITE);
  memset(arena, 0, ARENA_PAGES * PAGE);
  free(from);
}

/* Written out, because sanitizers replace the compiler's. Each returns what it found. */

static uint64_t add_atomically(uint8_t *at, uint64_t value) {
  __asm__ volatile("lock xaddq %0, (%1)" : "+&r"(value) : "r"(at) : "memory", "cc");
  return value;
}

static uint64_t or_atomically(uint8_t *at, uint64_t bits) {
  uint64_t found;
  __asm__ volatile("movq (%2), %%rax\n 1: movq %%rax, %%rcx\n orq %1, %%rcx\n lock cmpxchgq %%rcx, (%2)\n jne 1b"
                   : "=&a"(found)
                   : "r"(bits), "r"(at)
                   : "rcx", "memory", "cc");
  return found;
}

/* Reads anew in each round. */
static uint64_t increment_atomically(uint8_t *at) {
  uint64_t found;
  __asm__ volatile("1: movq (%1), %%rax\n leaq 1(%%rax), %%rcx\n lock cmpxchgq %%rcx, (%1)\n jne 1b"
                   : "=&a"(found) : "r"(at) : "rcx", "memory", "cc");
  return found;
}

/* Until it finds `from` there. */
static uint64_t replace_atomically(uint8_t *at, uint64_t from, uint64_t to) {
  uint64_t found;
  __asm__ volatile("1: movq %1, %%rax\n lock cmpxchgq %2, (%3)\n jne 1b" : "=&a"(found) : "r"(from), "r"(to), "r"(at) : "memory", "cc");
  return found;
}

static bool atomics_end(uint8_t *at, uint64_t loaded) {
  bool ok = add_atomically(at, 5) == 0 && add_atomically(at, 5) == 0;
  ok = ok && or_atomically(at, 1) == loaded && increment_atomically(at) == loaded;
  return ok && replace_atomically(at, 12345, 1) == 12345;
}

static void test_loops(void) {
  set_arena(0x11);
  check(atomics_end(arena + PAGE + 0x80, 0), "loops around cmpxchg end on a bad page", NULL);
  check(bad_hold(0x11), "and write nothing", NULL);
  check(atomics_end(arena + PAGE + 0x80, 0x1111111111111111), "loops around cmpxchg end on a page that can only be read", NULL);
  check(bad_hold(0x11), "and write nothing there", NULL);
  set_bad(arena, PROT_READ | PROT_WRITE);
  memset(arena, 0, ARENA_PAGES * PAGE);
}

static _Atomic unsigned writers;

static void *write_often(void *result) {
  uint8_t from[512];
  bool ok = true;
  unsigned number = atomic_fetch_add(&writers, 1);
  sink = map_sink(0);
  memset(&seen, 0, sizeof seen);
  memset(from, 0x77, sizeof from);
  for (unsigned i = 0; i < 2000; i++) {
    copy(arena + PAGE + 64 + number * 1000 + i % 700, from, 1 + i % 200);
    ok = ok && atomics_end(arena + PAGE, 0); /* all of them there */
  }
  *(bool *)result = ok && seen.refused == 0 && seen.redirected >= 2000;
  munmap(sink - PAGE, PF_STEP_AREA_MIN + 2 * PAGE);
  return NULL;
}

static void *copy_often(void *result) {
  uint8_t into[512];
  bool ok = true;
  sink = NULL;
  memset(&seen, 0, sizeof seen);
  for (unsigned i = 0; i < 2000; i++) {
    size_t len = 1 + i % 200;
    memset(into, 0xaa, sizeof into);
    copy(into + 16, arena + PAGE + i % 3000, len);
    ok = ok && all(into, 16, 0xaa) && all(into + 16, len, 0) && all(into + 16 + len, 64, 0xaa);
  }
  *(bool *)result = ok && seen.refused == 0 && seen.redirected >= 2000;
  return NULL;
}

static void check_threads(void *(*body)(void *), const char *sentence) {
  enum { THREADS = 4 };
  pthread_t threads[THREADS];
  bool ok[THREADS] = {false};
  set_bad(arena, PROT_NONE);
  for (int i = 0; i < THREADS; i++) {
    must(pthread_create(&threads[i], NULL, body, &ok[i]) == 0, "pthread_create");
  }
  for (int i = 0; i < THREADS; i++) {
    must(pthread_join(threads[i], NULL) == 0, "pthread_join");
  }
  for (int i = 0; i < THREADS; i++) {
    check(ok[i], sentence, NULL);
  }
}

static void test_threads(void) {
  check_threads(copy_often, "threads read the same bad page at the same time");
  check_threads(write_often, "threads write to the same bad page at the same time");
  check(bad_hold(0), "and nothing is written", NULL);
}

int main(void) {
  prepare();
  test_library();
  test_library_writes();
  test_loops();
  test_threads();
  return finish();
}

#endif
