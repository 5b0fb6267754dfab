// One segment in several threads: a SharedArrayBuffer whose pages each thread may touch. A page is read once.
import { fileURLToPath } from 'node:url';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { map, open } from 'pagefault';
import { file } from 'pagefault/stores';

const THREADS = 2;

/** Adds up every THREADS-th page, from `first` on. */
function sumPages(bytes, pageSize, first) {
  let sum = 0;
  for (let page = first; page * pageSize < bytes.length; page += THREADS) {
    for (const byte of bytes.subarray(page * pageSize, (page + 1) * pageSize)) sum += byte;
  }
  return sum;
}

async function main() {
  const segment = await map(file(process.execPath), { shared: true, resident: '32MiB' });
  try {
    const sums = Array.from({ length: THREADS }, (_, first) => {
      const worker = new Worker(fileURLToPath(import.meta.url), { workerData: { handle: segment.handle, first } });
      return new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
    });
    const total = (await Promise.all(sums)).reduce((sum, part) => sum + part, 0);
    console.log(`the bytes of ${process.execPath} add up to ${total}, counted by ${THREADS} threads`);
    console.log(`${segment.stats().faults} faults, ${segment.stats().waits} waits of one thread for another`);
  } finally {
    await segment.close();
  }
}

async function worker({ handle, first }) {
  const segment = await open(handle);
  try {
    parentPort.postMessage(sumPages(segment.view(Uint8Array), segment.pageSize, first));
  } finally {
    await segment.close();
  }
}

await (isMainThread ? main() : worker(workerData));
