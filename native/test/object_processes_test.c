/* sanitizers: address,thread,none */
/* Shared memory over parts of regions, in several processes: one that fills it too, one that dies or takes too long while it fills, and one that scribbles into what is shared. */
#include "object_support.h"

#include <sys/prctl.h>

/* This program again, as `child NAME BACKEND`, with the object as descriptor 9 and a pipe to it and from it as 7 and 8. */
typedef struct {
  pid_t pid;
  int to, from;
} other_t;

static other_t start_other(const char *name, pf_backend_t backend, const pf_object_t *object) {
  int down[2], up[2];
  must(pipe2(down, O_CLOEXEC) == 0 && pipe2(up, O_CLOEXEC) == 0, "pipes");
  int fd = pf_object_fd(object);
  fflush(stdout);
  pid_t pid = fork();
  must(pid >= 0, "a child");
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int shared = fcntl(fd, F_DUPFD, 20), in = fcntl(down[0], F_DUPFD, 20), out = fcntl(up[1], F_DUPFD, 20);
    dup2(shared, 9);
    dup2(in, 7);
    dup2(out, 8);
    close(shared);
    become_child(name, backend);
  }
  close(down[0]);
  close(up[1]);
  return (other_t){.pid = pid, .to = down[1], .from = up[0]};
}

static void say(int fd, char word) { must(write(fd, &word, 1) == 1, "a word"); }

static char hear(int fd) {
  char word = '?';
  return read(fd, &word, 1) == 1 ? word : '!';
}

static int end_other(other_t *other, int with) {
  int status = 0;
  if (with != 0) {
    kill(other->pid, with);
  }
  waitpid(other->pid, &status, 0);
  close(other->to);
  close(other->from);
  return status;
}

/* The other process: 16 pages of its own store (byte 2), the object over pages 4 to 7. */
static shown_t other_side(pf_backend_t backend) {
  pf_object_t *object = NULL;
  must(pf_object_adopt(9, &object) == 0, "the object");
  close(9);
  shown_t shown = show(backend, 16, 2, OPTIONS(.writable = true));
  must(patch(shown.region, 4, object) == 0, "a patch");
  pf_object_drop(object);
  return shown;
}

static int child_shares(pf_backend_t backend) {
  shown_t shown = other_side(backend);
  say(8, 'r');
  EXPECT_EQ(hear(7), '1'); /* the parent has filled the first */
  EXPECT_EQ(touch(shown.region, 4 * PAGE), 1);
  EXPECT_EQ(touch(shown.region, 5 * PAGE), 2);
  put(shown.region, 5 * PAGE + 1, 22);
  say(8, '2');
  EXPECT_EQ(hear(7), '3');
  EXPECT_EQ(touch(shown.region, 4 * PAGE + 3), 33);
  EXPECT_EQ(counter(&shown.region->counters.store_reads), 1);
  EXPECT_EQ(dirty_pages(shown.region), 1);
  return atomic_load(&unmet);
}

static void two_processes(pf_backend_t backend) {
  shown_t a = show(backend, 16, 1, OPTIONS(.writable = true));
  pf_object_t *object = make(4);
  EXPECT_EQ(patch(a.region, 0, object), 0);
  other_t other = start_other("shares", backend, object);
  EXPECT_EQ(hear(other.from), 'r');
  EXPECT_EQ(touch(a.region, 0), 1);
  say(other.to, '1');
  EXPECT_EQ(hear(other.from), '2');
  EXPECT_EQ(touch(a.region, PAGE), 2);
  EXPECT_EQ(touch(a.region, PAGE + 1), 22);
  put(a.region, 3, 33);
  say(other.to, '3');
  EXPECT_EQ(end_other(&other, 0), 0);
  EXPECT_EQ(counter(&a.region->counters.store_reads), 1);
  EXPECT_EQ(dirty_pages(a.region), 1);
  EXPECT_EQ(touch(a.region, 2 * PAGE), 1);
  pf_object_drop(object);
  hide(a, 16);
}

/* Begins to fill the first page, and takes its time. */
static int child_fills(pf_backend_t backend) {
  shown_t shown = other_side(backend);
  EXPECT_EQ(pf_patch_claim(shown.region, 4, false), PF_TO_FILL);
  say(8, 'r');
  EXPECT_EQ(hear(7), 'f');
  memset(shown.bytes, 9, PAGE);
  pf_patch_fill(shown.region, 4, shown.bytes); /* too late */
  EXPECT_EQ(touch(shown.region, 4 * PAGE), 1);
  say(8, 'd');
  return atomic_load(&unmet);
}

static void dies_while_it_fills(pf_backend_t backend) {
  shown_t a = show(backend, 16, 1, OPTIONS());
  pf_object_t *object = make(4);
  pf_why_t why;
  EXPECT_EQ(patch(a.region, 0, object), 0);
  other_t other = start_other("fills", backend, object);
  EXPECT_EQ(hear(other.from), 'r');
  EXPECT(!ensure(a.region, 0, 100, false, &why));
  EXPECT_EQ(why.code, PF_E_TIMEOUT);
  EXPECT_EQ(state_of(a.region, 0), PF_ABSENT);
  EXPECT(ensure(a.region, 1, LONG_MS, false, &why)); /* the others are nobody's */
  end_other(&other, SIGKILL);
  EXPECT(ensure(a.region, 0, LONG_MS, false, &why));
  EXPECT_EQ(touch(a.region, 0), 1);
  pf_object_drop(object);
  hide(a, 16);
}

static void takes_too_long(pf_backend_t backend) {
  shown_t a = show(backend, 16, 1, OPTIONS(.timeout_ms = 600));
  pf_object_t *object = make(4);
  EXPECT_EQ(patch(a.region, 0, object), 0);
  other_t other = start_other("fills", backend, object);
  EXPECT_EQ(hear(other.from), 'r');
  uint64_t started = pf_now_ns();
  EXPECT_EQ(touch(a.region, 0), 1); /* half of the time that a fault may take, then it is taken over */
  EXPECT(pf_now_ns() - started > 250 * MS);
  say(other.to, 'f');
  EXPECT_EQ(hear(other.from), 'd');
  EXPECT_EQ(touch(a.region, 0), 1);
  EXPECT_EQ(touch(a.region, PAGE - 1), 1);
  EXPECT_EQ(end_other(&other, 0), 0);
  pf_object_drop(object);
  hide(a, 16);
}

/* Scribbles over the words and the bytes, and punches holes. */
static int child_scribbles(pf_backend_t backend) {
  (void)backend;
  struct stat size;
  must(fstat(9, &size) == 0, "fstat");
  uint8_t *bytes = mmap(NULL, (size_t)size.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, 9, 0);
  must(bytes != MAP_FAILED, "mmap");
  uint64_t seed = 99;
  say(8, 'r');
  while (getppid() > 1) {
    _Atomic uint32_t *word = (_Atomic uint32_t *)(void *)(bytes + (2 << 20) + random_next(&seed) % 4 * 4);
    static const uint32_t words[] = {0, 1, UINT32_MAX, UINT32_MAX - 1, 0x5a5a5a5a};
    atomic_store(word, words[random_next(&seed) % 5]);
    if (random_next(&seed) % 8 == 0) {
      madvise(bytes + random_next(&seed) % 4 * PAGE, PAGE, MADV_REMOVE);
    }
    pf_sleep_until(pf_now_ns() + random_next(&seed) % 200000);
  }
  return 0;
}

static void beside_a_scribbler(pf_backend_t backend) {
  shown_t a = show(backend, 16, 1, OPTIONS(.writable = true, .timeout_ms = 5000)), b = show(backend, 16, 2, OPTIONS());
  pf_object_t *object = make(4);
  EXPECT_EQ(patch(a.region, 0, object), 0);
  EXPECT_EQ(patch(b.region, 0, object), 0);
  other_t other = start_other("scribbles", backend, object);
  EXPECT_EQ(hear(other.from), 'r');
  _Atomic int stop = 0;
  walker_t walkers[2] = {{a.region, 0, 8, 5, 0, 255, &stop, 0, 0}, {b.region, 0, 8, 6, 0, 255, &stop, 0, 0}};
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) {
    must(pthread_create(&threads[i], NULL, walk, &walkers[i]) == 0, "a thread");
  }
  for (uint64_t end = pf_now_ns() + 1000 * MS, seed = 3; pf_now_ns() < end;) {
    put(a.region, random_next(&seed) % (4 * PAGE), 7);
    release(b.region, 0, 4);
    EXPECT_EQ(flush(a.region), PF_OK);
    release(a.region, 0, 4);
  }
  atomic_store(&stop, 1);
  for (int i = 0; i < 2; i++) {
    pthread_join(threads[i], NULL);
    EXPECT(walkers[i].touches > 0);
  }
  EXPECT_EQ(touch(a.region, 5 * PAGE), 1);
  end_other(&other, SIGKILL);
  pf_object_drop(object);
  hide(a, 16);
  hide(b, 16);
}

static int child(const char *name, pf_backend_t backend) {
  snprintf(current_test, sizeof current_test, "child %s", name);
  int failed = strcmp(name, "shares") == 0 ? child_shares(backend) : strcmp(name, "fills") == 0 ? child_fills(backend) : child_scribbles(backend);
  fflush(stdout);
  _exit(failed > 0);
}

static void all_tests(void) {
  test_all("two processes fill and write the same memory", two_processes);
  test_all("a page is filled again after its filler was killed", dies_while_it_fills);
  test_all("a page whose filler takes too long is taken over", takes_too_long);
  if (!TSAN) { /* a page that is made to count as empty is filled again under its readers */
    test_all("whoever scribbles into shared memory crashes and hangs nobody", beside_a_scribbler);
  }
}

int main(int count, char **arguments) {
  if (count == 4 && strcmp(arguments[1], "child") == 0) {
    return child(arguments[2], backend_named(arguments[3]));
  }
  return run_all(count, arguments, all_tests);
}
