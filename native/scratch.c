/*
 * Buffers that pages are read into before they are opened: a process-wide pool, as many as threads load at once. A buffer is at least
 * 256 KiB (a full read-ahead window) and never smaller than the page. Taking and giving one is a compare-and-swap; a thread that finds
 * all of them taken waits for the next. Together they count in every budget.
 */
#include "engine.h"

#include <errno.h>

#define CLASSES 4 /* 256 KiB, 512 KiB, 1 MiB, 2 MiB */
#define BUFFERS 64

typedef struct {
  _Atomic uint32_t taken;
  uint8_t *_Atomic bytes; /* the taker's to make; stays until trimmed */
} buffer_t;

static buffer_t buffers[CLASSES][BUFFERS];
static _Atomic uint32_t given; /* futex of those that wait for a buffer */
static _Atomic uint32_t made;
static _Atomic uint64_t made_bytes;

static unsigned class_of(size_t len) {
  unsigned class = 0;
  while (len > PF_SCRATCH_MIN << class) {
    class++;
  }
  return class;
}

static int make_buffer(buffer_t *buffer, size_t len) {
  void *bytes;
  int err = pf_mem_reserve(len, "pagefault scratch", &bytes);
  if (err != 0) {
    return err;
  }
  buffer->bytes = bytes;
  atomic_fetch_add(&made, 1);
  atomic_fetch_add(&made_bytes, len);
  return 0;
}

int pf_scratch_take(size_t len, pf_scratch_t *out) {
  unsigned class = class_of(len);
  for (;;) {
    uint32_t seen = atomic_load(&given);
    for (uint32_t i = 0; i < BUFFERS; i++) {
      buffer_t *buffer = &buffers[class][i];
      uint32_t free_word = 0;
      if (atomic_load_explicit(&buffer->taken, memory_order_relaxed) != 0 ||
          !atomic_compare_exchange_strong_explicit(&buffer->taken, &free_word, 1, memory_order_acquire, memory_order_relaxed)) {
        continue;
      }
      if (buffer->bytes == NULL) {
        int err = make_buffer(buffer, PF_SCRATCH_MIN << class);
        if (err != 0) {
          atomic_store_explicit(&buffer->taken, 0, memory_order_release);
          return -ENOMEM;
        }
      }
      *out = (pf_scratch_t){.bytes = buffer->bytes, .slot = class * BUFFERS + i};
      return 0;
    }
    pf_futex_wait(&given, seen, pf_now_ns() + 10000000ULL); /* every holder gives its buffer back after one load */
  }
}

void pf_scratch_give(pf_scratch_t *scratch) {
  atomic_store_explicit(&buffers[scratch->slot / BUFFERS][scratch->slot % BUFFERS].taken, 0, memory_order_release);
  if (scratch->slot % BUFFERS == BUFFERS - 1) { /* only when the pool is exhausted does anyone wait */
    atomic_fetch_add(&given, 1);
    pf_futex_wake_all(&given);
  }
  scratch->bytes = NULL;
}

void pf_scratch_trim(void) {
  for (uint32_t class = 0; class < CLASSES; class++) {
    for (uint32_t i = 0; i < BUFFERS; i++) {
      buffer_t *buffer = &buffers[class][i];
      uint32_t free_word = 0;
      if (atomic_load(&buffer->bytes) == NULL || !atomic_compare_exchange_strong(&buffer->taken, &free_word, 1)) {
        continue;
      }
      uint8_t *bytes = atomic_exchange(&buffer->bytes, NULL);
      if (bytes != NULL) { /* another thread may have trimmed it in between */
        pf_mem_unmap(bytes, PF_SCRATCH_MIN << class);
        atomic_fetch_sub(&made, 1);
        atomic_fetch_sub(&made_bytes, PF_SCRATCH_MIN << class);
      }
      atomic_store_explicit(&buffer->taken, 0, memory_order_release);
    }
  }
}

unsigned pf_scratch_count(void) { return atomic_load(&made); }
uint64_t pf_scratch_bytes(void) { return atomic_load(&made_bytes); }
