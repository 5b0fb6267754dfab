/** `pagefault paging`: user-space paging, shown. A child touches memory, and its parent says what is in it. Main thread. */
import type { Command } from '../command.js';

export const paging: Command = {
  name: 'paging',
  summary: 'page the memory of a child process, letter by letter, and tell what happens',
  positionals: ['PAGES'],
  helpWhenBare: true,
  options: {
    children: { value: 'N', help: 'so many children at once, up to 256; default 1' },
    threads: { value: 'N', help: 'so many threads that read: of each child, or, without --children, of this process' },
    memory: { value: 'KIND', help: 'where the pages lie: mmap (the default), malloc, brk, shm, hugetlb' },
    strategy: {
      value: 'S[,S...]',
      help: 'when pages come: on-demand (the default), eager, read-ahead, budget (and the oldest go again)',
    },
    'switch-after': { value: 'N', help: 'after so many faults the next strategy of the list follows' },
    readahead: { value: 'PAGES', help: 'pages that come with each fault in read-ahead; default 8' },
    resident: { value: 'PAGES', help: 'pages that may be there at once in budget; default a quarter, at least 4' },
    write: { help: 'one byte is written to each page, too: write faults, dirty pages' },
    pause: { value: 'MS', help: 'between two pages, to have time to watch' },
    'child-exit': { value: 'CODE', help: 'the child exits with this code' },
    'child-signal': { value: 'NAME', help: 'the child ends itself with this signal after its reads' },
    signalfd: { help: 'learn of the children by a signalfd that takes SIGCHLD, in place of pidfds' },
    watch: { help: 'in a terminal: a live picture of the pages; keys e, o, r, b change the strategy, q ends' },
    explain: { help: 'at each step the system call that is made, and why' },
    json: { help: 'a JSON object a line, the last one a summary' },
    quiet: { short: 'q', help: 'only one line at the end' },
  },
  examples: [
    { line: 'pagefault paging 3', what: 'a child touches three pages; each fault, each answer, each read in order' },
    { line: 'pagefault paging 3 --explain', what: 'the same, with the system call behind each step and its reason' },
    {
      line: 'pagefault paging 4000 --watch --pause 1 --children 2',
      what: 'a live picture of two children; keys change the strategy',
    },
    {
      line: 'pagefault paging 16 --write --strategy budget --resident 4',
      what: 'pages go and come again with what was written to them',
    },
    {
      line: 'pagefault paging 10 --strategy on-demand,eager --switch-after 3',
      what: 'three faults, and then everything at once',
    },
    { line: 'pagefault paging 100000 --quiet --json', what: 'how fast it is: one line of numbers' },
  ],
  // Loaded only when it is wanted: the other commands need none of it.
  run: async (args, output, signal) => await (await import('./run.js')).run(args, output, signal),
};
