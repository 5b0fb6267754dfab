/*
 * A program that is paged, for the tests of the header and of the pager. What it does is its first argument; each result is a line.
 * The bytes it expects are those of byte_at. Compiled as C11 and as C++17.
 */
#include "pagefault_guest.h"

#include <dirent.h>
#include <sys/wait.h>

static pagefault_guest guest;

static unsigned char byte_at(uint64_t offset) { return (unsigned char)(offset * 7 + (offset >> 12) * 13 + 1); }

static int say(const char *text, long number) {
  printf("%s %ld\n", text, number);
  fflush(stdout);
  return 0;
}

static void wait_for_line(void) {
  for (int c = getchar(); c != '\n' && c != EOF;) {
    c = getchar();
  }
}

static long wrong_bytes(const void *memory, size_t len) {
  const volatile unsigned char *bytes = (const volatile unsigned char *)memory;
  long wrong = 0;
  for (size_t i = 0; i < len; i++) {
    wrong += bytes[i] != byte_at(i);
  }
  return wrong;
}

static void *touch_all(void *memory) { return (void *)wrong_bytes(memory, (size_t)pagefault_guest_store_length(&guest)); }

static int threads(void *memory) {
  pthread_t all[8];
  long wrong = 0;
  for (int i = 0; i < 8; i++) {
    if (pthread_create(&all[i], NULL, touch_all, memory) != 0) {
      return 1;
    }
  }
  for (int i = 0; i < 8; i++) {
    void *result;
    pthread_join(all[i], &result);
    wrong += (long)result;
  }
  return say("wrong", wrong);
}

/* Every page, forever: some that are there and some that are not. */
static void loop(void *memory, size_t len) {
  const volatile unsigned char *bytes = (const volatile unsigned char *)memory;
  for (size_t at = 0;; at = (at + 4096) % len) {
    if (bytes[at] != byte_at(at)) {
      say("wrong", (long)at);
    }
    say("page", (long)(at / 4096));
  }
}

/* In a program that was started by one that is paged. */
static int grandchild(void) {
  char link[64], target[256];
  long inherited = 0;
  DIR *folder = opendir("/proc/self/fd");
  for (struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
    snprintf(link, sizeof link, "/proc/self/fd/%.10s", entry->d_name);
    ssize_t length = readlink(link, target, sizeof target - 1);
    target[length > 0 ? length : 0] = '\0';
    inherited += atoi(entry->d_name) > 2 && (strstr(target, "socket") != NULL || strstr(target, "userfaultfd") != NULL);
  }
  closedir(folder);
  say("variable", getenv("PAGEFAULT_GUEST_FD") != NULL);
  return say("inherited", inherited);
}

static int fork_and_touch(const void *memory) {
  int status;
  pid_t pid = fork();
  if (pid == 0) {
    _exit(*(const volatile unsigned char *)memory == 0 ? 10 : 20);
  }
  waitpid(pid, &status, 0);
  return say("signal", WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status));
}

/* Memory that is refused: what becomes of it. */
static int refused(size_t len) {
  int ends[2];
  void *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(memory, 0xAA, len);
  say("page", pagefault_guest_page(&guest, memory, len, 0, PAGEFAULT_GUEST_MMAP));
  if (pipe(ends) != 0) {
    return 1;
  }
  return say("accessible", write(ends[1], memory, 1) == 1);
}

static int paged(const char *what, void *memory, size_t len) {
  if (strcmp(what, "loop") == 0) {
    loop(memory, len);
  }
  if (strcmp(what, "fork") == 0) {
    return fork_and_touch(memory);
  }
  if (strcmp(what, "threads") == 0) {
    return threads(memory);
  }
  say("wrong", wrong_bytes(memory, len));
  if (strcmp(what, "twice") == 0) {
    wait_for_line();
    say("again", wrong_bytes(memory, len));
  }
  say("unpage", pagefault_guest_unpage(&guest, memory));
  return say("disconnect", pagefault_guest_disconnect(&guest));
}

int main(int count, char **args) {
  const char *what = count > 1 ? args[1] : "pages";
  void *memory;
  if (strcmp(what, "grandchild") == 0) {
    return grandchild();
  }
  say("connect", pagefault_guest_connect(&guest));
  size_t len = (size_t)pagefault_guest_store_length(&guest);
  if (strcmp(what, "hello") == 0 || guest.pid == 0) {
    return 0;
  }
  if (strcmp(what, "refused") == 0) {
    return refused(len);
  }
  say("map", pagefault_guest_map(&guest, len, 0, &memory));
  if (strcmp(what, "exec") == 0) {
    char command[] = "grandchild";
    char *arguments[] = {args[0], command, NULL};
    execv("/proc/self/exe", arguments);
  }
  return memory == NULL ? 1 : paged(what, memory, len);
}
