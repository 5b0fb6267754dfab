/*
 * Node-API: memory that exists. Where it is, what the kernel says of it, and a hold on it that outlives whatever JavaScript does to its buffer.
 *
 * The hold is V8's own: its backing stores are counted (std::shared_ptr), and one more reference keeps the memory mapped, whether the buffer is transferred,
 * detached by memory.grow() or collected, or its thread ends. Node-API has no call for it, so the methods of V8's C++ interface are looked up by their
 * linker names (as old as Node.js 14) and called as the platform's C++ ABI (Itanium, on x64 and arm64) says: a class that is not trivially copied is
 * returned through a hidden pointer, as C returns a structure of more than 16 bytes. What comes back is checked against what Node-API says of
 * the same buffer. Where any of it is missing there is no hold, and the caller must do with less.
 *
 * A hold ends when nobody else has the memory: only then may its addresses be anything but closed. The count is read where libstdc++ keeps it, and the last
 * reference is dropped as libstdc++ does; that it is libstdc++ is found out by taking a reference and looking. Where it is not, holds do not end.
 *
 * Any JavaScript thread; the table of holds has a lock of its own, under which nothing else is locked.
 */
#include "binding.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  void *store, *count, *spare; /* std::shared_ptr; `spare` makes it large enough for the hidden pointer */
} shared_t;

typedef shared_t (*get_store_t)(napi_value buffer);
typedef void *(*data_t)(const void *store);

typedef struct {
  uint64_t id; /* 0: unused */
  shared_t memory;
  bool ends;     /* how references are counted is known */
  napi_env env;  /* whose JavaScript says when its buffer is gone; NULL: nobody any more */
  uint8_t *base; /* what of it was ever paged */
  size_t length;
} hold_t;

static pf_lock_t lock;
static hold_t *holds;
static size_t capacity;
static uint64_t last_id;

/* --- V8's references ------------------------------------------------------------------------------------------------------- */

/* libstdc++: std::_Sp_counted_base is a table of virtual functions, the uses, and the weak uses, which all uses together count as one of. */
typedef struct {
  void (**table)(void *self); /* two destructors, _M_dispose, _M_destroy */
  _Atomic int32_t uses, weak_uses;
} counted_t;

static void *look_up(const char *name) { return dlsym(RTLD_DEFAULT, name); }

static bool take_reference(napi_value buffer, bool shared, const void *address, shared_t *out) {
  get_store_t get_store;
  data_t data;
  void *get_symbol = look_up(shared ? "_ZN2v817SharedArrayBuffer15GetBackingStoreEv" : "_ZN2v811ArrayBuffer15GetBackingStoreEv");
  void *data_symbol = look_up("_ZNK2v812BackingStore4DataEv");
  const char *without = getenv("PAGEFAULT_WITHOUT"); /* for tests: a runtime that hides them */
  if (get_symbol == NULL || data_symbol == NULL || (without != NULL && strstr(without, "backing_store") != NULL)) {
    return false;
  }
  memcpy(&get_store, &get_symbol, sizeof get_store);
  memcpy(&data, &data_symbol, sizeof data);
  *out = get_store(buffer); /* a napi_value is the handle's slot, which is what `this` is */
  return out->store != NULL && out->count != NULL && data(out->store) == address;
}

static void drop_reference(const shared_t *memory) {
  counted_t *counted = memory->count;
  if (atomic_fetch_sub(&counted->uses, 1) == 1) {
    counted->table[2](counted);
    if (atomic_fetch_sub(&counted->weak_uses, 1) == 1) {
      counted->table[3](counted);
    }
  }
}

/* True when one more reference is one more use, and no other layout that is known would show these numbers. Keeps no reference, or, where it is not so, one
 * that nobody gives back. */
static bool counts_as_known(napi_value buffer, bool shared, const void *address, const shared_t *first) {
  const counted_t *counted = first->count;
  for (int tries = 0; tries < 3; tries++) { /* shared memory may be passed to another thread meanwhile */
    shared_t second;
    int32_t before = atomic_load(&counted->uses);
    if (!take_reference(buffer, shared, address, &second)) {
      return false;
    }
    int32_t after = atomic_load(&counted->uses);
    if (second.count == first->count && before >= 2 && after == before + 1 && atomic_load(&counted->weak_uses) >= 1) {
      drop_reference(&second);
      return true;
    }
  }
  return false;
}

/* --- holds ------------------------------------------------------------------------------------------------------------------- */

/* The lock is held. */
static hold_t *find(uint64_t id) {
  for (size_t i = 0; id != 0 && i < capacity; i++) {
    if (holds[i].id == id) {
      return &holds[i];
    }
  }
  return NULL;
}

/* The same memory in another buffer is the same hold. */
static uint64_t add(const hold_t *hold) {
  hold_t *free_one = NULL;
  for (size_t i = 0; i < capacity; i++) {
    if (holds[i].id != 0 && holds[i].memory.count == hold->memory.count) {
      if (hold->ends) {
        drop_reference(&hold->memory);
      }
      return holds[i].id;
    }
    free_one = holds[i].id == 0 ? &holds[i] : free_one;
  }
  if (free_one == NULL) {
    size_t larger = capacity == 0 ? 16 : 2 * capacity;
    hold_t *moved = realloc(holds, larger * sizeof *moved);
    if (moved == NULL) {
      return 0;
    }
    memset(moved + capacity, 0, (larger - capacity) * sizeof *moved);
    holds = moved;
    free_one = &holds[capacity];
    capacity = larger;
  }
  *free_one = *hold;
  free_one->id = ++last_id;
  return last_id;
}

/* The lock is held. These addresses are not those of other holds' memory any more: it was unmapped by whoever had it. */
static void lose(const uint8_t *base, size_t len, const hold_t *but) {
  for (size_t i = 0; i < capacity; i++) {
    if (&holds[i] != but && holds[i].length > 0 && holds[i].base < base + len && base < holds[i].base + holds[i].length) {
      holds[i].length = 0;
    }
  }
}

void pf_memory_paged(uint64_t id, uint8_t *base, size_t len) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&lock);
  hold_t *hold = find(id);
  if (hold != NULL) {
    lose(base, len, hold);
    hold->base = base; /* the same each time */
    hold->length = len > hold->length ? len : hold->length;
  }
  pf_unlock(&lock);
  pf_restore_signals(&before);
}

/* Opens its addresses again, and ends the hold. False: somebody pages them, or is still inside. */
static bool end_hold(hold_t hold) {
  char other[PF_NAME_MAX];
  if (hold.length > 0 && pf_region_forget(hold.base, hold.length, other) != 0) {
    return false;
  }
  drop_reference(&hold.memory);
  return true;
}

/* Takes out of the table, so that nobody else ends it, a hold that is all that is left of its memory: this one, or, for 0, one that nobody speaks for. */
static hold_t take_last(uint64_t id) {
  hold_t taken = {0};
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&lock);
  for (size_t i = 0; i < capacity && taken.id == 0; i++) {
    hold_t *hold = &holds[i];
    bool meant = hold->id != 0 && (id != 0 ? hold->id == id : hold->env == NULL);
    if (meant && hold->ends && atomic_load(&((counted_t *)hold->memory.count)->uses) == 1) {
      taken = *hold;
      hold->id = 0;
    }
  }
  pf_unlock(&lock);
  pf_restore_signals(&before);
  return taken;
}

static void put_back(const hold_t *hold) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&lock);
  uint64_t id = add(hold); /* there is room: it was taken out */
  hold_t *again = find(id);
  if (again != NULL) {
    again->id = hold->id;
  }
  pf_unlock(&lock);
  pf_restore_signals(&before);
}

/* False: it has not ended, and is in the table again. */
static bool end_taken(const hold_t *hold) {
  bool ended = end_hold(*hold);
  if (!ended) {
    put_back(hold);
  }
  return ended;
}

static void end_orphans(void) {
  for (hold_t hold; (hold = take_last(0)).id != 0;) {
    if (!end_taken(&hold)) {
      return;
    }
  }
}

/* memoryHold(bytes: a view of the whole buffer): a number for memoryRelease, or 0. */
static napi_value memory_hold(napi_env env, napi_callback_info info) {
  napi_value args[1], buffer = NULL;
  void *data = NULL;
  size_t len = 0;
  bool plain = false;
  uint64_t id = 0;
  hold_t hold = {0};
  pf_args(env, info, 1, args);
  if (napi_get_typedarray_info(env, args[0], NULL, &len, &data, &buffer, NULL) != napi_ok || len == 0) {
    return pf_from_number(env, 0);
  }
  napi_is_arraybuffer(env, buffer, &plain);
#if defined(__x86_64__) || defined(__aarch64__)
  if (take_reference(buffer, !plain, data, &hold.memory)) {
    hold.ends = counts_as_known(buffer, !plain, data, &hold.memory);
    hold.env = env;
    end_orphans();
    sigset_t before;
    pf_mask_signals(&before);
    pf_lock(&lock);
    id = add(&hold);
    pf_unlock(&lock);
    pf_restore_signals(&before);
  }
#endif
  return pf_from_number(env, (double)id);
}

/* memoryRelease(id): true when the hold has ended, or never will. False: others have the memory still. */
static napi_value memory_release(napi_env env, napi_callback_info info) {
  napi_value args[1], result = NULL;
  pf_args(env, info, 1, args);
  uint64_t id = pf_number(env, args[0]);
  hold_t hold = take_last(id);
  bool ended = hold.id != 0 && end_taken(&hold);
  if (hold.id == 0) {
    MASKED({
      pf_lock(&lock);
      hold_t *left = find(id);
      ended = left == NULL || !left->ends;
      pf_unlock(&lock);
    });
  }
  end_orphans();
  napi_get_boolean(env, ended, &result);
  return result;
}

void pf_memory_thread_ends(napi_env env) {
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&lock);
  for (size_t i = 0; i < capacity; i++) {
    holds[i].env = holds[i].env == env ? NULL : holds[i].env;
  }
  pf_unlock(&lock);
  pf_restore_signals(&before);
}

/* --- what is known of memory ------------------------------------------------------------------------------------------------- */

/* memoryLook(bytes, out: Float64Array): mapped, open and reserved bytes, whether it is anonymous. Returns the address. */
static napi_value memory_look(napi_env env, napi_callback_info info) {
  napi_value args[2], address = NULL;
  uint8_t *bytes;
  size_t len, page = pf_os_page_size();
  pf_mem_seen_t seen = {0};
  pf_args(env, info, 2, args);
  double *out = pf_elements(env, args[1], napi_float64_array, 4);
  if (!pf_bytes(env, args[0], &bytes, &len) || out == NULL) {
    return NULL;
  }
  uintptr_t start = ((uintptr_t)bytes + page - 1) / page * page, end = ((uintptr_t)bytes + len) / page * page;
  int err = start < end ? pf_mem_look((void *)start, end - start, &seen) : 0;
  if (err != 0) {
    return pf_throw(env, PF_E_SYSTEM, -err, "open", "/proc/self/maps, which says what kind of memory this is, cannot be read");
  }
  out[0] = (double)seen.mapped;
  out[1] = (double)seen.open;
  out[2] = (double)seen.reserve;
  out[3] = seen.anonymous;
  napi_create_bigint_uint64(env, (uintptr_t)bytes, &address);
  return address;
}

/* regionReaches(id, bytes): memory that grows has at least so many bytes now. */
static napi_value region_reaches(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_args(env, info, 2, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  if (region != NULL) {
    uint64_t bytes = pf_number(env, args[1]);
    pf_region_reaches(region, bytes >= region->length ? region->page_count : bytes >> region->page_shift);
    pf_region_leave(region);
  }
  return NULL;
}

/* memoryForget(address, byteLength): its owner is about to unmap it. Returns the name of an open segment that pages some of it, or undefined. */
static napi_value memory_forget(napi_env env, napi_callback_info info) {
  napi_value args[2];
  uint64_t address = 0;
  char other[PF_NAME_MAX] = "";
  pf_args(env, info, 2, args);
  if (!pf_address(env, args[0], &address)) {
    return NULL;
  }
  uint8_t *base = (uint8_t *)(uintptr_t)address;
  size_t len = pf_number(env, args[1]);
  int err = pf_region_forget(base, len, other);
  if (err == 0) {
    MASKED({
      pf_lock(&lock);
      lose(base, len, NULL);
      pf_unlock(&lock);
    });
  }
  if (err == -EAGAIN) {
    return pf_throw(env, PF_E_SYSTEM, -err, "munmap", "threads are still inside the closed segment that had this memory");
  }
  return err == -EBUSY ? pf_from_text(env, other) : NULL;
}

const pf_export_t pf_memory_exports[] = {
    {"memoryRelease", memory_release},
    {"memoryForget", memory_forget},
    {"memoryHold", memory_hold},
    {"memoryLook", memory_look},
    {"regionReaches", region_reaches},
    {NULL, NULL},
};
