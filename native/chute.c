/*
 * Chutes: where clean pages go on their way out of memory (close.c). A page has to be moved to be looked at once more without anybody writing to it; moved
 * next to each other, pages that were scattered are dropped by one call, for a third of what it costs to drop them one by one, and leave no page tables
 * behind in as many places. A few for the process: whoever finds all of them taken does without. Any thread, a signal handler too; taking and giving one is a
 * compare-and-swap.
 */
#include "backend.h"

#define CHUTES 4

typedef struct {
  _Atomic uint32_t taken;
  uint8_t *_Atomic bytes; /* the taker's to make; stays until trimmed */
  bool left;              /* the kernel refused to drop what is in it. The taker's */
} one_t;

static one_t chutes[PF_OWNS][CHUTES];

static bool make_ready(one_t *one, pf_own_t mover) {
  if (one->bytes == NULL) {
    void *made;
    if (pf_mem_reserve(PF_LOAD_MAX, "pagefault chute", &made) != 0) {
      return false;
    }
    if (pf_own_uffd_register(mover, made, PF_LOAD_MAX, 0) != 0) { /* pages are moved only between ranges that are */
      pf_mem_unmap(made, PF_LOAD_MAX);
      return false;
    }
    one->bytes = made;
  }
  if (one->left) {
    one->left = pf_mem_drop(one->bytes, PF_LOAD_MAX) != 0;
  }
  return !one->left;
}

bool pf__chute_take(pf_own_t mover, pf_chute_t *out) {
  for (uint32_t i = 0; i < CHUTES; i++) {
    one_t *one = &chutes[mover][i];
    uint32_t free_word = 0;
    if (atomic_load_explicit(&one->taken, memory_order_relaxed) != 0 ||
        !atomic_compare_exchange_strong_explicit(&one->taken, &free_word, 1, memory_order_acquire, memory_order_relaxed)) {
      continue;
    }
    if (make_ready(one, mover)) {
      *out = (pf_chute_t){.bytes = one->bytes, .slot = (uint32_t)mover * CHUTES + i};
      return true;
    }
    atomic_store_explicit(&one->taken, 0, memory_order_release);
  }
  return false;
}

void pf__chute_give(pf_chute_t *chute, size_t len) {
  if (chute->bytes == NULL) {
    return;
  }
  one_t *one = &chutes[chute->slot / CHUTES][chute->slot % CHUTES];
  one->left = pf_mem_drop(chute->bytes, len) != 0;
  chute->bytes = NULL;
  atomic_store_explicit(&one->taken, 0, memory_order_release);
}

void pf_chutes_trim(void) {
  for (uint32_t i = 0; i < PF_OWNS * CHUTES; i++) {
    one_t *one = &chutes[i / CHUTES][i % CHUTES];
    uint32_t free_word = 0;
    if (atomic_load(&one->bytes) != NULL && atomic_compare_exchange_strong(&one->taken, &free_word, 1)) {
      uint8_t *bytes = atomic_exchange(&one->bytes, NULL);
      if (bytes != NULL) { /* another thread may have trimmed it in between */
        pf_mem_unmap(bytes, PF_LOAD_MAX);
      }
      one->left = false;
      atomic_store_explicit(&one->taken, 0, memory_order_release);
    }
  }
}
