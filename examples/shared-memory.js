// Two processes, one copy: memory that both lay over their segments is filled once, by whoever touches a page first, and what one of them writes there
// the other one sees.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { map, SharedMemory, sharedMemory } from 'pagefault';
import { receiveFds, sendFds, UnixSocket } from 'pagefault/kernel';
import { file } from 'pagefault/stores';

const PAGES = 64;
const PAGE = 4096;

/** The first pages of a file that both have, with the memory over them. */
async function open(memory) {
  const segment = await map(file(process.execPath), { byteLength: 2 * PAGES * PAGE, pageSize: PAGE, readahead: 0 });
  segment.patch(0, memory);
  return segment;
}

/** Adds up a byte of each page. */
const add = (bytes) => Array.from({ length: PAGES }, (_, page) => bytes[page * PAGE + 64]).reduce((a, b) => a + b);

async function parent() {
  const memory = sharedMemory(PAGES * PAGE);
  const segment = await open(memory);
  await segment.load(0, (PAGES / 2) * PAGE); // the other half is left to the child
  const [ours, theirs] = UnixSocket.pair();
  const script = fileURLToPath(import.meta.url);
  const other = spawn(process.execPath, [script, 'child'], { stdio: ['ignore', 'inherit', 'inherit', theirs.fd] });
  theirs.close();
  sendFds(ours, [memory.fd]); // a descriptor is all that the other process needs
  await once(other, 'exit');
  const before = segment.stats().storeReads;
  const sum = add(segment.view(Uint8Array));
  const after = segment.stats().storeReads;
  console.log(`parent: read ${before} pages of the file, and ${after - before} more for the sum ${sum}`);
  console.log(`${memory.filledBytes / PAGE} pages are in memory, once`);
  ours.close();
  memory.close();
  await segment.close();
}

async function child() {
  const socket = UnixSocket.fromFd(3);
  const memory = SharedMemory.fromFd(receiveFds(socket).fds[0]);
  const segment = await open(memory);
  const sum = add(segment.view(Uint8Array));
  console.log(`child: read ${segment.stats().storeReads} pages of the file for the sum ${sum}`);
  memory.close(); // the segment has it still
  await segment.close();
  socket.close();
}

await (process.argv[2] === 'child' ? child() : parent());
