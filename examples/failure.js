// What happens when a page cannot be had: an error where you can catch one, and never zeroes.
import { map } from 'pagefault';
import { custom } from 'pagefault/stores';

const byteLength = 2 ** 20;
const broken = new SharedArrayBuffer(4);
const flag = new Int32Array(broken);
const store = custom(new URL('./stores/flaky.js', import.meta.url), { byteLength, broken });
const segment = await map(store);
try {
  const bytes = segment.view(Uint8Array);
  const last = byteLength - 1;
  Atomics.store(flag, 0, 1);

  // read() copies bytes out, and throws. Nothing was touched through a view, so nothing else can happen.
  try {
    segment.read(last, 1);
  } catch (error) {
    console.log(`read: ${error.name} ${error.code} because ${error.cause.message}`);
  }
  // attempt() runs code that touches a view. Touched outside of it, the page would end the process with a report, as a
  // mapped file that was truncated ends it with SIGBUS.
  try {
    segment.attempt(() => bytes[last]);
  } catch (error) {
    console.log(`attempt: ${error.name} at offset ${error.offset}`);
  }
  console.log(`other pages: ${bytes[0]}, failed pages: ${segment.stats().failedPages}`);

  // A failed page stays failed until load() or invalidate().
  Atomics.store(flag, 0, 0);
  await segment.load(last, 1);
  console.log(`after load: ${bytes[last]}, failed pages: ${segment.stats().failedPages}`);
} finally {
  await segment.close();
}
