/*
 * Mappings for the kernel binding: exact addresses, advice to its end, pages of the heap.
 */
#include "mapping.h"
#include "support.h"

#define ANONYMOUS (MAP_PRIVATE | MAP_ANONYMOUS)
#define RW (PROT_READ | PROT_WRITE)

static uint64_t map_some(size_t pages) {
  uint64_t addr = 0;
  must(pf_mapping_map(0, pages * PAGE, RW, ANONYMOUS, -1, 0, &addr) == 0, "memory");
  return addr;
}

static uint8_t *bytes_at(uint64_t addr) { return (uint8_t *)(uintptr_t)addr; }

static void never_over_another(pf_backend_t backend) {
  (void)backend;
  uint64_t addr = map_some(4), other = 7;
  bytes_at(addr)[PAGE] = 9;
  EXPECT_EQ(pf_mapping_map(addr + PAGE, PAGE, RW, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0, &other), -EEXIST);
  EXPECT_EQ(other, 7);
  EXPECT_EQ(bytes_at(addr)[PAGE], 9);
  EXPECT_EQ(pf_mapping_unmap(addr + PAGE, PAGE), 0);
  EXPECT_EQ(pf_mapping_exists(addr, 4 * PAGE), 0);
  EXPECT_EQ(pf_mapping_exists(addr, PAGE), 1);
  EXPECT_EQ(pf_mapping_map(addr + PAGE, PAGE, RW, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0, &other), 0);
  EXPECT_EQ(other, addr + PAGE);
  EXPECT_EQ(bytes_at(addr)[PAGE], 0);
  EXPECT_EQ(pf_mapping_exists(addr, 4 * PAGE), 1);
  EXPECT_EQ(pf_mapping_unmap(addr, 4 * PAGE), 0);
  EXPECT_EQ(pf_mapping_exists(addr, 4 * PAGE), 0);
}

static void refusals(pf_backend_t backend) {
  (void)backend;
  uint64_t addr = map_some(2), out;
  EXPECT_EQ(pf_mapping_map(0, (size_t)1 << 60, RW, ANONYMOUS, -1, 0, &out), -ENOMEM);
  EXPECT_EQ(pf_mapping_map(0, PAGE, RW, MAP_SHARED, 1000, 0, &out), -EBADF);
  EXPECT_EQ(pf_mapping_unmap(addr + 1, PAGE), -EINVAL);
  EXPECT_EQ(pf_mapping_protect(addr + 1, PAGE, PROT_READ), -EINVAL);
  EXPECT_EQ(pf_mapping_advise(addr, PAGE, 9999), -EINVAL);
  EXPECT_EQ(pf_mapping_unmap(addr, 2 * PAGE), 0);
  EXPECT_EQ(pf_mapping_protect(addr, PAGE, PROT_READ), -ENOMEM);
  EXPECT_EQ(pf_mapping_advise(addr, PAGE, MADV_DONTNEED), -ENOMEM);
}

static _Atomic int ticking;

static void on_tick(int number) { (void)number; }

static void *tick(void *data) {
  while (atomic_load(&ticking)) {
    pthread_kill(*(pthread_t *)data, SIGUSR2);
    pf_sleep_until(pf_now_ns() + 20000);
  }
  return NULL;
}

/* Populating stops at signals that are handled, and goes on. */
static void populate_under_signals(pf_backend_t backend) {
  (void)backend;
  size_t pages = SLOW ? 4096 : 16384;
  uint64_t addr = map_some(pages);
  pf_mapping_advise(addr, pages * PAGE, MADV_NOHUGEPAGE);
  struct sigaction action = {.sa_handler = on_tick};
  sigaction(SIGUSR2, &action, NULL);
  pthread_t self = pthread_self(), ticker;
  atomic_store(&ticking, 1);
  must(pthread_create(&ticker, NULL, tick, &self) == 0, "a thread");
  EXPECT_EQ(pf_mapping_advise(addr, pages * PAGE, MADV_POPULATE_WRITE), 0);
  atomic_store(&ticking, 0);
  pthread_join(ticker, NULL);
  EXPECT_EQ(pf_mem_resident(bytes_at(addr), pages * PAGE), 1);
  EXPECT_EQ(pf_mapping_advise(addr, pages * PAGE, MADV_DONTNEED), 0);
  EXPECT_EQ(pf_mem_resident(bytes_at(addr), PAGE), 0);
  pf_mapping_unmap(addr, pages * PAGE);
}

static void heap_pages(pf_backend_t backend) {
  (void)backend;
  enum { COUNT = 40 };
  uint64_t addr[COUNT];
  for (size_t i = 0; i < COUNT; i++) {
    size_t len = (1 + i % 5 * 20) * PAGE;
    must(pf_mapping_from_malloc(len, &addr[i]) == 0, "heap memory");
    EXPECT_EQ(addr[i] % PAGE, 0);
    EXPECT_EQ(bytes_at(addr[i])[0] + bytes_at(addr[i])[len - 1], 0);
    memset(bytes_at(addr[i]), 0xab, len);
    if (i % 3 == 0) {
      EXPECT_EQ(pf_mapping_advise(addr[i], len, MADV_DONTFORK), 0);
      EXPECT_EQ(pf_mapping_protect(addr[i], len, PROT_READ), 0);
    }
  }
  for (size_t i = 0; i < COUNT; i++) { /* free writes into them: they must be writable again */
    EXPECT_EQ(pf_mapping_free(addr[i], (1 + i % 5 * 20) * PAGE), 0);
  }
  for (size_t i = 0; i < COUNT; i++) { /* and malloc may hand them out */
    char *text = malloc(3 * PAGE);
    must(text != NULL, "malloc");
    memset(text, 1, 3 * PAGE);
    free(text);
  }
  uint64_t out = 5;
  if (!SLOW) { /* the sanitizers' malloc ends the process instead */
    EXPECT_EQ(pf_mapping_from_malloc((size_t)1 << 46, &out), -ENOMEM);
    EXPECT_EQ(out, 5);
  }
}

static void break_pages(pf_backend_t backend) {
  (void)backend;
  uint64_t first, second;
  must(sbrk(24) != (void *)-1, "an odd break"); /* ours must be whole pages all the same */
  EXPECT_EQ(pf_mapping_grow_break(3 * PAGE, &first), 0);
  EXPECT_EQ(first % PAGE, 0);
  memset(bytes_at(first), 3, 3 * PAGE);
  must(sbrk(8) != (void *)-1, "somebody else's break");
  EXPECT_EQ(pf_mapping_grow_break(PAGE, &second), 0);
  EXPECT(second >= first + 3 * PAGE + 8);
  EXPECT_EQ(second % PAGE, 0);
  memset(bytes_at(second), 4, PAGE);
  EXPECT_EQ(bytes_at(first)[3 * PAGE - 1], 3);
  EXPECT_EQ(pf_mapping_grow_break((size_t)1 << 46, &first), -ENOMEM);
  EXPECT_EQ(pf_mapping_grow_break(SIZE_MAX, &first), -ENOMEM);
}

int main(void) {
  run_one("an exact address never replaces a mapping", "", never_over_another, PF_BACKEND_SIGNAL);
  run_one("what the kernel refuses is a negative errno", "", refusals, PF_BACKEND_SIGNAL);
  run_one("populating goes on after signals", "", populate_under_signals, PF_BACKEND_SIGNAL);
  run_one("pages of malloc read zero, and malloc gets them back as plain memory", "", heap_pages, PF_BACKEND_SIGNAL);
  run_one("pages behind the break are whole, whoever moves it in between", "", break_pages, PF_BACKEND_SIGNAL);
  return summary();
}
