/*
 * Regions that begin: their memory is made, or memory that exists is taken; their tables; how writes to them will be known. Set-up: the caller's thread, never in a
 * handler, under the registry lock (registry.h).
 */
#include "registry.h"
#include "touched.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SMALL_TABLE ((size_t)1 << 16) /* state tables below come from malloc: no mapping of their own */

/* --- memory ---------------------------------------------------------------------------------------------------------------- */

static int register_memory(pf_region_t *region) {
  pf_own_t which = pf_own_which(region->track == PF_TRACK_FAULT || region->sealed, region->served);
  unsigned modes = (region->writable || region->sealed ? PF_OWN_PROTECT : 0) | (region->backend == PF_BACKEND_MEMFD ? PF_OWN_MINOR : 0);
  return pf_own_uffd_register(which, region->base, region->length, modes);
}

/* Memory that exists. With -EFAULT and -EOPNOTSUPP nothing has changed. */
static int map_into(pf_region_t *region, const pf_region_options_t *options, const char **step) {
  pf_mem_seen_t seen;
  uint8_t *ours = NULL;
  size_t exists = options->into_length < region->length ? options->into_length : region->length;
  bool twice = region->backend != PF_BACKEND_SIGNAL;
  *step = "open(/proc/self/maps)";
  int err = pf_mem_look(options->into, exists, &seen);
  if (err != 0) {
    return err;
  }
  if (seen.mapped < exists) {
    return -EFAULT;
  }
  if ((options->into_grows || exists < region->length) && (twice || seen.reserve < region->length - exists)) {
    return -EOPNOTSUPP;
  }
  region->foreign = true;
  region->base = options->into;
  region->exists = exists;
  atomic_store(&region->reach, exists >> region->page_shift);
  *step = "mmap";
  if (twice) {
    err = pf_mem_map_twice_at(region->base, region->length, region->name, &ours);
    atomic_store(&region->ours, ours);
    if (region->backend == PF_BACKEND_MPROTECT) {
      return err;
    }
  } else {
    err = pf_mem_adopt(region->base, exists, region->length, seen.anonymous && !pf__table_has(region->base, region->length));
  }
  if (err == 0) {
    *step = "ioctl(UFFDIO_REGISTER)";
    err = register_memory(region);
  }
  region->guarded = region->writable || region->sealed ? 0 : exists;
  return err != 0 ? err : pf_mem_protect(region->base, exists, region->guarded != 0 ? PROT_READ : PROT_READ | PROT_WRITE);
}

void pf__region_unmap(pf_region_t *region) {
  if (region->outlived) {
    pf_near_bar(region);
  } else if (!region->foreign) {
    pf_mem_unmap_region(region->base, region->length);
  }
  if (region->ours != NULL) {
    pf_mem_unmap(region->ours, region->length);
  }
}

static int map_memory(pf_region_t *region, const char **step) {
  int prot = region->writable ? PROT_READ | PROT_WRITE : PROT_READ;
  bool twice = region->backend != PF_BACKEND_SIGNAL;
  size_t block = (size_t)1 << PF_PAGE_SHIFT_MAX; /* whole page tables, for block.c */
  size_t align = region->budget != NULL && region->length > block ? block : pf_page_size(region);
  uint8_t *ours = NULL;
  int err;
  *step = "mmap";
  if (twice) {
    err = pf_mem_map_twice(region->length, align, region->name, &region->base, &ours);
    *step = err == -EMFILE || err == -ENFILE ? "memfd_create" : "mmap";
    atomic_store(&region->ours, ours);
  } else {
    err = pf_mem_map_region(region->length, align, region->name, &region->base);
  }
  region->guarded = region->writable ? 0 : region->length;
  if (err == 0 && region->backend != PF_BACKEND_MPROTECT) {
    *step = "ioctl(UFFDIO_REGISTER)";
    err = register_memory(region);
    if (err == 0) { /* inaccessible until it is registered */
      *step = "mprotect";
      err = pf_mem_protect(region->base, region->length, prot);
    }
    if (err != 0) {
      pf__region_unmap(region);
    }
  }
  return err;
}

/* Making it failed: memory that was ordinary is so again. */
static void abandon_into(pf_region_t *region) {
  if (!pf__table_has(region->base, region->length)) { /* else it stays closed */
    pf_mem_give_back(region->base, region->exists, region->length);
  }
}

/* --- tables ---------------------------------------------------------------------------------------------------------------- */

static int make_tables(pf_region_t *region) {
  size_t len = region->page_count;
  void *marks;
  if (region->writable) {
    int err = pf_mem_reserve(len + 8, "pagefault marks", &marks);
    if (err != 0) {
      return err;
    }
    region->marks = marks;
  }
  if (len < SMALL_TABLE) {
    region->states = calloc((len + 3) & ~(size_t)3, 1); /* whole futex words */
    return region->states == NULL ? -ENOMEM : 0;
  }
  void *states;
  int err = pf_mem_reserve(len, "pagefault states", &states);
  if (err != 0) {
    return err;
  }
  region->states = states;
  region->states_len = len;
  if (region->budget != NULL) {
    region->table_pages = calloc(len / pf_os_page_size() / 8 + 1, 1);
    return region->table_pages == NULL ? -ENOMEM : 0;
  }
  return 0;
}

void pf__region_free_tables(pf_region_t *region) {
  if (region->states_len != 0) {
    pf_mem_unmap(region->states, region->states_len);
  } else {
    free(region->states);
  }
  if (region->marks != NULL) {
    pf_mem_unmap((void *)region->marks, region->page_count + 8);
    region->marks = NULL;
  }
  free(region->table_pages);
  pf_touched_free(region);
  pf_blocks_free(region);
  pf_bars_free(region);
  if (region->pins != NULL) {
    pf_mem_unmap(region->pins, region->page_count * sizeof *region->pins);
  }
}

/* --- making ---------------------------------------------------------------------------------------------------------------- */

static void fill_in(pf_region_t *region, const pf_region_options_t *options) {
  unsigned shift = 0;
  while (((size_t)1 << shift) < options->page_size) {
    shift++;
  }
  /* Everything but id and users, which late readers may still be looking at. */
  memset((char *)region + offsetof(pf_region_t, phase), 0, sizeof *region - offsetof(pf_region_t, phase));
  region->holders = 1;
  region->served = options->backend == PF_BACKEND_THREAD;
  region->backend = region->served ? PF_BACKEND_SIGNAL : options->backend;
  region->unreadable_zero = options->unreadable_zero;
  region->writable = options->writable;
  region->on_write = options->on_write && options->writable;
  region->track = options->track;
  region->shared = options->shared;
  region->page_shift = (uint8_t)shift;
  region->byte_length = options->byte_length;
  region->store_length = options->store_length;
  region->page_count = (options->byte_length + options->page_size - 1) >> shift;
  region->length = region->page_count << shift;
  region->store_pages = (options->store_length + options->page_size - 1) >> shift;
  atomic_init(&region->reach, region->page_count);
  region->sealed = options->into_sealed;
  region->timeout_ns = options->timeout_ms * 1000000ULL;
  region->stall_after_ns = options->stall_after_ms * 1000000ULL;
  region->poll_ns = (options->poll_ms == 0 ? 1000 : options->poll_ms) * 1000000ULL;
  region->stall_said_at = 0;
  region->readahead_pages = options->readahead < 0 ? -1 : (int32_t)(options->readahead >> shift);
  region->window_max = (uint32_t)(PF_SCRATCH_MIN >> shift);
  region->window_max = region->window_max == 0 ? 1 : region->window_max > PF_BATCH_MAX ? PF_BATCH_MAX : region->window_max;
  uint64_t asked = options->longest_read >> shift;
  region->ask_max = asked == 0 ? 1 : asked < region->window_max ? (uint32_t)asked : region->window_max;
  int32_t most = (int32_t)((PF_LOAD_MAX >> shift) < PF_BATCH_MAX ? PF_LOAD_MAX >> shift : PF_BATCH_MAX) - 1;
  if (region->readahead_pages > most) {
    region->readahead_pages = most;
  }
  strncpy(region->name, options->name, sizeof region->name - 1);
  strncpy(region->store_name, options->store_name, sizeof region->store_name - 1);
  for (size_t i = 0; i < PF_STREAMS; i++) {
    atomic_init(&region->streams[i], UINT64_MAX);
  }
}

/* With the registry held. On failure the slot is unchanged but for its contents. */
static int set_up(pf_region_t *region, pf_region_options_t *options, const char **step) {
  fill_in(region, options);
  region->budget = options->budget;
  *step = "into";
  int err = options->into == NULL ? 0 : pf__table_overlap(options->into, region->length, options->other);
  if (err != 0) {
    return err;
  }
  *step = "calloc";
  err = make_tables(region);
  err = err != 0 ? err : pf_bars_make(region);
  if (err == 0) {
    err = options->into == NULL ? map_memory(region, step) : map_into(region, options, step);
    bool mapped = err == 0;
    if (mapped && region->budget != NULL) {
      *step = "budget";
      err = pf_blocks_make(region);
      err = err != 0 ? err : pf_budget_join(region->budget, region);
    }
    if (err != 0 && (mapped || region->foreign)) { /* map_memory leaves nothing behind */
      pf__region_unmap(region);
    }
    if (err != 0 && region->foreign) {
      abandon_into(region);
    }
  }
  if (err != 0) {
    pf__region_free_tables(region);
    region->states = NULL;
  }
  return err;
}

/* CONTINUE with write protection came with 6.4, as did WP_UNPOPULATED, which has a bit. */
static int start_memfd(const pf_region_options_t *options) {
  pf_own_t which = options->writable ? PF_OWN_SYNC : PF_OWN_ASYNC;
  uint64_t needed = PF_OWN_CAN_MINOR | (options->writable ? PF_OWN_CAN_PROTECT_SHARED : 0);
  int err = pf_own_uffd_start(which);
  return err != 0 ? err : (pf_own_uffd_features(which) & needed) == needed ? 0 : -EOPNOTSUPP;
}

static int start_own(pf_own_t which) { return pf_own_is_served(which) ? pf_service_start(which) : pf_own_uffd_start(which); }

/* How writes will be known, and the descriptor for that. */
static int choose_track(pf_region_options_t *options) {
  bool served = options->backend == PF_BACKEND_THREAD, signal = served || options->backend == PF_BACKEND_SIGNAL;
  pf_own_t async = pf_own_which(false, served), sync = pf_own_which(true, served);
  if (options->backend == PF_BACKEND_MEMFD) {
    options->track = options->writable ? PF_TRACK_FAULT : PF_TRACK_NONE;
    return start_memfd(options);
  }
  int err = signal ? start_own(async) : 0;
  options->track = !options->writable ? PF_TRACK_NONE : PF_TRACK_FAULT;
  if (err == 0 && signal && options->writable) {
    if (pf_own_uffd_tracks(async) && !options->on_write) {
      options->track = PF_TRACK_ASYNC;
    } else {
      err = start_own(sync);
    }
  }
  /* Whoever has the memory may make it writable (V8 does when a WebAssembly.Memory grows): write protection keeps writes out, where the kernel has it (5.7). */
  if (err == 0 && signal && options->into != NULL && !options->writable) {
    int refused = start_own(sync);
    options->into_sealed = refused == 0;
    err = pf_os_is_exhausted(refused) ? refused : 0;
  }
  return err;
}

/* -EAGAIN: a closed region that has the memory (`into`) is not drained yet. */
static int create(pf_region_options_t *options, pf_region_t **out, const char **step) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&pf__registry);
  *step = "mmap";
  int err = pf__registry_start();
  pf_region_t *region = err == 0 ? pf__registry_take() : NULL;
  if (region == NULL) {
    err = err != 0 ? err : -ENFILE;
  } else {
    err = set_up(region, options, step);
    if (err != 0) {
      pf__registry_give(region);
    }
  }
  if (err == 0) {
    region->source = options->source;
    region->source.written = region->writable;
    pf__registry_publish(region);
    *out = region;
  }
  pf_unlock(&pf__registry);
  pf_restore_signals(&before);
  return err;
}

/* Before anything of ours is mapped, which might come to lie in a hole of the memory, and be taken for a part of it. */
static int look_for_holes(const pf_region_options_t *options) {
  pf_mem_seen_t seen = {0};
  uint64_t whole = (options->byte_length + options->page_size - 1) / options->page_size * options->page_size;
  size_t exists = options->into_length < whole ? options->into_length : whole;
  int err = options->into == NULL || exists == 0 ? 0 : pf_mem_look(options->into, exists, &seen);
  return err != 0 || options->into == NULL || seen.mapped >= exists ? err : -EFAULT;
}

int pf_region_create(pf_region_options_t *options, pf_region_t **out, const char **step) {
  *step = "open(/proc/self/maps)";
  int err = look_for_holes(options);
  if (err != 0) {
    return err;
  }
  *step = "madvise";
  err = pf_fork_start();
  if (err == 0) {
    *step = "sigaction";
    err = pf_signal_start();
  }
  if (err == 0) {
    *step = "userfaultfd";
    err = choose_track(options);
  }
  if (err != 0) {
    return err;
  }
  uint64_t give_up = pf_now_ns() + PF_DRAIN_NS;
  for (;;) {
    pf_region_reap();
    err = create(options, out, step);
    if (err == -ENOMEM && pf_now_ns() < give_up && pf_near_release_all()) {
      continue;
    }
    if (err != -EAGAIN || pf_now_ns() > give_up) {
      break;
    }
    pf_sleep_until(pf_now_ns() + 1000000ULL);
  }
  if (err == 0) {
    pf_region_reap(); /* what gave up its memory */
    pf_guard_interval((*out)->poll_ns);
    pf_guard_start();
  }
  return err;
}
