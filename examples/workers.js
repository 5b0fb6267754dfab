// One segment in several threads: a SharedArrayBuffer whose pages each thread may touch. A page is read once.
import { fileURLToPath } from 'node:url';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { map, open } from 'pagefault';
import { file } from 'pagefault/stores';

const THREADS = 2;

/** Adds up part `number` of THREADS equal parts. */
function sumPart(bytes, number) {
  const part = Math.ceil(bytes.length / THREADS);
  let sum = 0;
  for (const byte of bytes.subarray(number * part, (number + 1) * part)) sum += byte;
  return sum;
}

async function main() {
  const segment = await map(file(process.execPath), { shared: true, resident: '32MiB' });
  try {
    const sums = Array.from({ length: THREADS }, (_, number) => {
      const worker = new Worker(fileURLToPath(import.meta.url), { workerData: { handle: segment.handle, number } });
      return new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
    });
    const total = (await Promise.all(sums)).reduce((sum, part) => sum + part, 0);
    console.log(`the bytes of ${process.execPath} add up to ${total}, counted by ${THREADS} threads`);
    console.log(`${segment.stats().faults} faults, ${segment.stats().waits} waits of one thread for another`);
  } finally {
    await segment.close();
  }
}

async function worker({ handle, number }) {
  const segment = await open(handle);
  try {
    parentPort.postMessage(sumPart(segment.view(Uint8Array), number));
  } finally {
    await segment.close();
  }
}

await (isMainThread ? main() : worker(workerData));
