/* Node-API: load, pin, flush and transfers, on threads of our own, answered on the caller's loop. An open job keeps that loop alive, but for what is loaded
 * ahead. */
#include "binding.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
  pf_job_t job; /* first: the engine knows only this */
  uint64_t number;
  unsigned page_shift;
  uint64_t region_id;
  bool pinned; /* the pages are, and nobody was told: who frees this unpins them */
  pf_failure_t failure; /* of a job that failed: known before the region is left, which may end with that */
  napi_ref done, progress;
  napi_ref bytes; /* COPY_OUT: where job.bytes go when it is done. The loader never touches memory of JavaScript, which may be gone with its thread */
  napi_threadsafe_function channel;
  _Atomic uint32_t finished; /* the job is over and its result can be read */
  _Atomic uint32_t telling;  /* a message is under way */
  pf_lock_t hand_over;
  _Atomic uint32_t channel_gone;
  _Atomic uint32_t left;     /* who is done with this struct: the loader, the channel. The second frees it */
} load_t;

/* Jobs by number, for cancelling: numbers are slot and generation, as everywhere. */
#define JOBS 4096
static pf_lock_t jobs_lock;
static load_t *jobs[JOBS];
static uint64_t next_job = 1;

static bool list_job(load_t *load) {
  bool listed = false;
  pf_lock(&jobs_lock);
  for (size_t tries = 0; !listed && tries < JOBS; tries++) {
    uint64_t number = next_job++;
    if (jobs[number % JOBS] == NULL) {
      jobs[number % JOBS] = load;
      load->number = number;
      listed = true;
    }
  }
  pf_unlock(&jobs_lock);
  return listed;
}

static void unlist_job(load_t *load) {
  pf_lock(&jobs_lock);
  jobs[load->number % JOBS] = NULL;
  pf_unlock(&jobs_lock);
}

static bool has_descriptor(const pf_job_t *job) { return job->kind == PF_JOB_WRITE_TO || job->kind == PF_JOB_READ_FROM; }
static bool is_transfer(const pf_job_t *job) { return has_descriptor(job) || job->kind == PF_JOB_COPY_OUT || job->kind == PF_JOB_COPY_IN; }

static void leave(load_t *load) {
  if (atomic_fetch_add(&load->left, 1) == 1) {
    if (load->pinned) {
      pf_unpin_by_id(load->region_id, load->job.first, load->job.end);
    }
    unlist_job(load);
    free(load->job.bytes);
    free(load);
  }
}

/* A message to the loop. False: the environment is ending, and the channel must not be used again. */
static bool tell(load_t *load) { return napi_call_threadsafe_function(load->channel, NULL, napi_tsfn_nonblocking) == napi_ok; }

static void on_progress(pf_job_t *job) {
  load_t *load = (load_t *)job;
  uint32_t none = 0;
  pf_lock(&load->hand_over); /* as in on_done: the channel does not go while it is told */
  if (atomic_load(&load->channel_gone) == 0 && atomic_compare_exchange_strong(&load->telling, &none, 1)) { /* merged: one at a time */
    tell(load);
  }
  pf_unlock(&load->hand_over);
}

/* The loader's last touch of the job. */
static void on_done(pf_job_t *job) {
  load_t *load = (load_t *)job;
  if (job->why.code != PF_OK) {
    pf_failure_of(job->region, job->failed_page, job->why, &load->failure);
  }
  load->pinned = job->kind == PF_JOB_PIN && job->why.code == PF_OK;
  if (has_descriptor(job)) {
    close(job->fd); /* not later: whoever reads from a pipe waits for all that can write to it */
  }
  pf_region_leave(job->region);
  pf_region_reap(); /* closed meanwhile, it must not keep its pages until the loop turns: the loop's thread may wait for them */
  pf_lock(&load->hand_over); /* the channel's end waits for us, or we see that it has come */
  if (atomic_load(&load->channel_gone) == 0) {
    napi_threadsafe_function channel = load->channel;
    atomic_store(&load->finished, 1);
    if (tell(load)) {
      napi_release_threadsafe_function(channel, napi_tsfn_release);
    }
  }
  pf_unlock(&load->hand_over);
  leave(load);
}

static uint64_t bytes_done(const load_t *load) {
  return is_transfer(&load->job) ? atomic_load(&load->job.bytes_done) : atomic_load(&load->job.pages_done) << load->page_shift;
}

static void call_progress(napi_env env, load_t *load, napi_value self) {
  napi_value callback = NULL;
  if (load->progress != NULL && napi_get_reference_value(env, load->progress, &callback) == napi_ok && callback != NULL) {
    napi_value bytes = pf_from_number(env, (double)bytes_done(load));
    napi_call_function(env, self, callback, 1, &bytes, NULL);
  }
}

/* What was copied out goes to the bytes that wait for it, unless they were detached. */
static void hand_out(napi_env env, load_t *load) {
  napi_value value = NULL;
  uint8_t *into;
  size_t len;
  if (load->bytes != NULL && napi_get_reference_value(env, load->bytes, &value) == napi_ok && value != NULL && pf_bytes(env, value, &into, &len)) {
    uint64_t done = bytes_done(load);
    memcpy(into, load->job.bytes, done < len ? (size_t)done : len);
  }
}

static void call_done(napi_env env, load_t *load, napi_value self) {
  napi_value callback = NULL, failure = NULL;
  if (load->done == NULL || napi_get_reference_value(env, load->done, &callback) != napi_ok || callback == NULL) {
    return;
  }
  napi_get_null(env, &failure);
  if (load->job.why.code != PF_OK) {
    failure = pf_failure_object(env, &load->failure);
  }
  hand_out(env, load);
  if (load->pinned) {
    load->pinned = false;
    pf_pin_for(env, load->region_id, load->job.first, load->job.end);
  }
  napi_delete_reference(env, load->done);
  load->done = NULL;
  napi_value args[3] = {failure, pf_from_number(env, (double)bytes_done(load)), pf_from_number(env, load->job.fd_errno)};
  napi_call_function(env, self, callback, 3, args, NULL);
}

static void on_loop(napi_env env, napi_value unused, void *context, void *data) {
  (void)unused;
  (void)data;
  if (env == NULL) {
    return; /* the environment is ending, and the struct may be gone */
  }
  load_t *load = context;
  atomic_store(&load->telling, 0);
  napi_value self = pf_undefined(env);
  call_progress(env, load, self);
  if (atomic_load(&load->finished)) {
    call_done(env, load, self);
  }
}

/* The channel is gone: the job is over, or its environment is. Then the loader may still be at work; it finds out under the lock. */
static void on_channel_gone(napi_env env, void *data, void *hint) {
  load_t *load = data;
  (void)hint;
  atomic_store(&load->job.cancel, 1);
  sigset_t before;
  pf_mask_signals(&before);
  pf_lock(&load->hand_over);
  atomic_store(&load->channel_gone, 1);
  pf_unlock(&load->hand_over);
  pf_restore_signals(&before);
  if (load->done != NULL) {
    napi_delete_reference(env, load->done);
  }
  if (load->progress != NULL) {
    napi_delete_reference(env, load->progress);
  }
  if (load->bytes != NULL) {
    napi_delete_reference(env, load->bytes);
  }
  leave(load);
}

static bool make_channel(napi_env env, load_t *load) {
  return napi_create_threadsafe_function(env, NULL, NULL, pf_from_text(env, "pagefault load"), 0, 1, load, on_channel_gone, load, on_loop,
                                         &load->channel) == napi_ok;
}

/* A load_t for the job; what the job owns is its own from here on, and given up with NULL. */
static load_t *make_load(napi_env env, const pf_job_t *job, napi_value done, napi_value progress) {
  load_t *load = calloc(1, sizeof *load);
  if (load == NULL || !list_job(load)) {
    free(load);
    pf_throw(env, PF_E_SYSTEM, ENOMEM, NULL, "too many loads at once");
    return NULL;
  }
  load->page_shift = job->region->page_shift;
  load->region_id = atomic_load(&job->region->id);
  load->job = *job;
  load->job.done = on_done;
  if (!make_channel(env, load)) {
    unlist_job(load);
    free(load);
    pf_throw(env, PF_E_SYSTEM, 0, NULL, "the runtime has no room for a load");
    return NULL;
  }
  if (job->kind == PF_JOB_REPLAY) {
    napi_unref_threadsafe_function(env, load->channel); /* it is only a hint: nothing waits for it */
  }
  napi_create_reference(env, done, 1, &load->done);
  if (pf_is_function(env, progress)) {
    napi_create_reference(env, progress, 1, &load->progress);
    load->job.progress = on_progress;
  }
  return load;
}

static napi_value throw_pin(napi_env env, int err) {
  if (err == -EDQUOT) {
    return pf_throw(env, PF_E_BUDGET, 0, NULL, "pinning this much would leave the budget no room for other pages (four are kept free)");
  }
  return pf_throw(env, PF_E_NO_MEMORY, -err, "mmap", "the pages cannot be pinned");
}

/* Hands a job to a loader. `bytes`: where a COPY_OUT goes, or NULL. 0: something was thrown, the region is left, pins are undone, and what the job owned is given up. */
static uint64_t start_job(napi_env env, const pf_job_t *job, napi_value bytes, napi_value done, napi_value progress) {
  load_t *load = make_load(env, job, done, progress);
  uint64_t number = load == NULL ? 0 : load->number;
  if (load != NULL && bytes != NULL) {
    napi_create_reference(env, bytes, 1, &load->bytes);
  }
  int err = load == NULL ? 0 : pf_loader_submit(&load->job);
  if (load != NULL && err == 0) {
    return number;
  }
  if (job->kind == PF_JOB_PIN) {
    MASKED(pf_pin_remove(job->region, job->first, job->end));
  }
  if (has_descriptor(job)) {
    close(job->fd);
  }
  pf_region_leave(job->region);
  if (load == NULL) {
    free(job->bytes);
    return 0;
  }
  leave(load); /* for the loader, which never saw it; the channel's end does the rest */
  napi_release_threadsafe_function(load->channel, napi_tsfn_abort);
  pf_throw(env, PF_E_SYSTEM, -err, "pthread_create", "no thread can be had for loading");
  return 0;
}

static napi_value region_load(napi_env env, napi_callback_info info) {
  napi_value args[6];
  pf_args(env, info, 6, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  if (region == NULL) {
    return NULL;
  }
  uint64_t first, end;
  bool pin = pf_boolean(env, args[3]);
  if (!pf_touched_pages(region, pf_number(env, args[1]), pf_number(env, args[2]), &first, &end) || !pf_is_function(env, args[4])) {
    pf_region_leave(region);
    napi_throw_range_error(env, NULL, "regionLoad: outside the region");
    return NULL;
  }
  int err = 0;
  if (pin) {
    MASKED(err = pf_pin_add(region, first, end)); /* before loading, so that nothing loaded can go again */
  }
  if (err != 0) {
    pf_region_leave(region);
    return throw_pin(env, err);
  }
  const pf_job_t job = {.region = region, .first = first, .end = end, .kind = pin ? PF_JOB_PIN : PF_JOB_LOAD};
  uint64_t number = start_job(env, &job, NULL, args[4], args[5]);
  return number == 0 ? NULL : pf_from_number(env, (double)number);
}

static napi_value region_replay(napi_env env, napi_callback_info info) {
  napi_value args[4];
  uint8_t *bytes;
  size_t len;
  pf_args(env, info, 4, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  if (region == NULL) {
    return NULL;
  }
  if (!pf_is_function(env, args[2]) || !pf_bytes(env, args[1], &bytes, &len) || len == 0 || len % 8 != 0) {
    pf_region_leave(region);
    napi_throw_range_error(env, NULL, "regionReplay: not pairs of a page and a count");
    return NULL;
  }
  pf_job_t job = {.region = region, .kind = PF_JOB_REPLAY, .len = len, .bytes = malloc(len)};
  if (job.bytes == NULL) {
    pf_region_leave(region);
    return pf_throw(env, PF_E_NO_MEMORY, ENOMEM, "malloc", "no memory for the list of pages");
  }
  memcpy(job.bytes, bytes, len);
  uint64_t number = start_job(env, &job, NULL, args[2], args[3]);
  return number == 0 ? NULL : pf_from_number(env, (double)number);
}

static napi_value region_flush(napi_env env, napi_callback_info info) {
  napi_value args[5];
  pf_args(env, info, 5, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  if (region == NULL) {
    return NULL;
  }
  uint64_t first, end;
  if (!region->writable || !pf_is_function(env, args[3]) ||
      !pf_touched_pages(region, pf_number(env, args[1]), pf_number(env, args[2]), &first, &end)) {
    pf_region_leave(region);
    napi_throw_range_error(env, NULL, "regionFlush: outside the region, or the region is read-only");
    return NULL;
  }
  const pf_job_t job = {.region = region, .first = first, .end = end, .kind = PF_JOB_FLUSH};
  uint64_t number = start_job(env, &job, NULL, args[3], args[4]);
  return number == 0 ? NULL : pf_from_number(env, (double)number);
}

/* --- transfers ------------------------------------------------------------------------------------------------------------------ */

static napi_value refuse_transfer(napi_env env, pf_region_t *region, const char *message) {
  pf_region_leave(region);
  napi_throw_range_error(env, NULL, message);
  return NULL;
}

/* regionTransfer(id, into, fd, offset, byteLength, position, done, progress) */
static napi_value region_transfer(napi_env env, napi_callback_info info) {
  napi_value args[8];
  pf_args(env, info, 8, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  if (region == NULL) {
    return NULL;
  }
  bool into = pf_boolean(env, args[1]);
  pf_job_t job = {.region = region, .kind = into ? PF_JOB_READ_FROM : PF_JOB_WRITE_TO, .position = pf_integer(env, args[5])};
  job.offset = pf_number(env, args[3]);
  job.len = pf_number(env, args[4]);
  if ((into && !region->writable) || !pf_is_function(env, args[6]) || !pf_touched_pages(region, job.offset, job.len, &job.first, &job.end)) {
    return refuse_transfer(env, region, "regionTransfer: outside the region, or the region is read-only");
  }
  job.fd = pf_transfer_fd((int)pf_integer(env, args[2]));
  if (job.fd < 0) {
    pf_region_leave(region);
    return pf_throw(env, PF_E_SYSTEM, -job.fd, "fcntl", "the descriptor cannot be used");
  }
  uint64_t number = start_job(env, &job, NULL, args[6], args[7]);
  return number == 0 ? NULL : pf_from_number(env, (double)number);
}

/* regionCopy(id, into, offset, bytes, done) */
static napi_value region_copy(napi_env env, napi_callback_info info) {
  napi_value args[5];
  uint8_t *bytes;
  size_t len;
  pf_args(env, info, 5, args);
  pf_region_t *region = pf_open_region(env, args[0]);
  if (region == NULL) {
    return NULL;
  }
  bool into = pf_boolean(env, args[1]);
  pf_job_t job = {.region = region, .kind = into ? PF_JOB_COPY_IN : PF_JOB_COPY_OUT, .offset = pf_number(env, args[2])};
  if ((into && !region->writable) || !pf_is_function(env, args[4]) || !pf_bytes(env, args[3], &bytes, &len) ||
      !pf_touched_pages(region, job.offset, len, &job.first, &job.end)) {
    return refuse_transfer(env, region, "regionCopy: outside the region, or the region is read-only");
  }
  job.len = len;
  job.bytes = malloc(len);
  if (job.bytes == NULL) {
    pf_region_leave(region);
    return pf_throw(env, PF_E_NO_MEMORY, ENOMEM, "malloc", "no memory for a copy");
  }
  if (into) {
    memcpy(job.bytes, bytes, len);
  }
  uint64_t number = start_job(env, &job, into ? NULL : args[3], args[4], NULL);
  return number == 0 ? NULL : pf_from_number(env, (double)number);
}

/* --- a flush that is waited for ---------------------------------------------------------------------------------------------- */

#define FLUSH_NOW_NS 5000000000ULL

typedef struct {
  pf_job_t job; /* first: the engine knows only this */
  _Atomic uint32_t done;
  _Atomic uint32_t left; /* the loader, the waiter: the second frees it */
} waited_t;

static void leave_waited(waited_t *waited) {
  if (atomic_fetch_add(&waited->left, 1) == 1) {
    free(waited);
  }
}

static void on_flushed(pf_job_t *job) {
  waited_t *waited = (waited_t *)job;
  pf_region_leave(job->region);
  pf_region_reap();
  atomic_store(&waited->done, job->why.code == PF_OK ? 1 : 2);
  pf_futex_wake_all(&waited->done);
  leave_waited(waited);
}

bool pf_flush_now(pf_region_t *region) {
  waited_t *waited = calloc(1, sizeof *waited);
  if (waited == NULL) {
    return false;
  }
  waited->job = (pf_job_t){.region = region, .first = 0, .end = region->page_count, .kind = PF_JOB_FLUSH, .done = on_flushed};
  atomic_fetch_add(&region->users, 1);
  if (pf_loader_submit(&waited->job) != 0) {
    pf_region_leave(region);
    free(waited);
    return false;
  }
  uint64_t give_up = pf_now_ns() + FLUSH_NOW_NS;
  while (atomic_load(&waited->done) == 0 && pf_now_ns() < give_up) {
    pf_futex_wait(&waited->done, 0, give_up);
  }
  atomic_store(&waited->job.cancel, 1);
  bool flushed = atomic_load(&waited->done) == 1;
  leave_waited(waited);
  return flushed;
}

/* --- exports ------------------------------------------------------------------------------------------------------------------- */

static napi_value job_cancel(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  uint64_t number = pf_number(env, args[0]);
  bool queued = false;
  pf_lock(&jobs_lock); /* while it is held nothing is freed */
  load_t *load = jobs[number % JOBS];
  if (load != NULL && load->number == number) {
    atomic_store(&load->job.cancel, 1);
    queued = pf_loader_withdraw(&load->job);
  }
  pf_unlock(&jobs_lock);
  if (queued) {
    pf_loader_abort(&load->job); /* in the loader's stead */
  }
  return NULL;
}

static napi_value region_unpin(napi_env env, napi_callback_info info) {
  napi_value args[3];
  pf_args(env, info, 3, args);
  pf_region_t *region = pf_region_by_id(pf_number(env, args[0]));
  if (region == NULL) {
    return NULL; /* closed and gone, its pins with it */
  }
  uint64_t first, end;
  bool some = pf_touched_pages(region, pf_number(env, args[1]), pf_number(env, args[2]), &first, &end);
  uint64_t id = atomic_load(&region->id);
  pf_region_leave(region);
  if (some) {
    pf_unpin_for(env, id, first, end);
  }
  return NULL;
}

const pf_export_t pf_load_exports[] = {
    {"regionLoad", region_load},
    {"regionReplay", region_replay},
    {"regionFlush", region_flush},
    {"regionTransfer", region_transfer},
    {"regionCopy", region_copy},
    {"jobCancel", job_cancel},
    {"regionUnpin", region_unpin},
    {NULL, NULL},
};
