// A pager of your own: one thread touches memory that has nothing behind it, the other one puts the pages there.
import { once } from 'node:events';
import { isMainThread, Worker, workerData } from 'node:worker_threads';
import { Mapping, pageSize, Uffd } from 'pagefault/kernel';

async function serve() {
  const memory = Mapping.anonymous(8 * pageSize()); // addresses; none of the pages exists yet
  const uffd = Uffd.open();
  uffd.register(memory, 'missing'); // whoever touches a page that is not there waits for us from now on
  const page = new Uint8Array(pageSize());
  uffd.onEvents((faults) => {
    for (const fault of faults) {
      const number = Number(fault.address - memory.address) / pageSize();
      console.log(`page ${number} is wanted`);
      uffd.resolve(fault.address, page.fill(number * 11)); // it is there, whole, and the thread goes on
    }
  });
  const { address, byteLength } = memory;
  await once(new Worker(new URL(import.meta.url), { workerData: { address, byteLength } }), 'exit');
  memory.unmap(); // first the memory, then the descriptor
  uffd.close();
}

function touch(bytes) {
  for (const number of [5, 2, 5]) console.log(`page ${number} is full of ${bytes[number * pageSize()]}`);
}

await (isMainThread ? serve() : touch(new Uint8Array(Mapping.bufferAt(workerData))));
