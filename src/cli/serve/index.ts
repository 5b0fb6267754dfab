/** `pagefault serve`: pages for other processes, until it is ended. Main thread. */
import type { Command } from '../command.js';

export const serve: Command = {
  name: 'serve',
  summary: 'bring pages to other processes, until it is ended',
  positionals: ['WHAT'],
  helpWhenBare: true,
  options: {},
  // Loaded only when one is wanted: each has needs of its own.
  parts: {
    firecracker: async () => (await import('./firecracker.js')).serveFirecrackerCommand,
    pages: async () => (await import('./pages.js')).servePagesCommand,
  },
  examples: [
    {
      line: 'pagefault serve firecracker --socket /run/vm.sock --memory vm.mem',
      what: 'memory for Firecracker VMs that are restored from a snapshot',
    },
    {
      line: 'pagefault serve pages --socket /run/pages.sock --memory vm.mem --base 0x80000000',
      what: 'a page server: whoever connects asks for pages by their addresses',
    },
  ],
  run: async () => {
    throw new Error('unreachable: one of the parts runs');
  },
};
