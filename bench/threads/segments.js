// A process of the figure `many-segments`: the same pages as one segment or as many. At each message it drops them all, touches them in
// random order through the same number of views, and answers with the time of a fault.
import { map } from 'pagefault';
import { memory } from 'pagefault/stores';
import { timed } from '../lib/measure.js';
import { PAGE, shuffled, verify } from '../lib/touch.js';

/** @type {{ views: number, pagesPerView: number, segments: number }} */
const { views: viewCount, pagesPerView, segments: segmentCount } = JSON.parse(process.argv[2] ?? '{}');
const pages = viewCount * pagesPerView;
const bytes = new Uint8Array(new SharedArrayBuffer(pages * PAGE));
for (let page = 0; page < pages; page++) bytes[page * PAGE] = page & 255;

/** @type {import('pagefault').Segment[]} */
const segments = [];
/** @type {Uint8Array[]} */
const views = [];
const each = bytes.length / segmentCount;
const begin = performance.now();
for (let i = 0; i < segmentCount; i++) {
  const part = new Uint8Array(bytes.buffer, i * each, each);
  segments.push(await map(memory(part), { backend: 'signal', readahead: 0 }));
}
const opened = ((performance.now() - begin) / segmentCount) * 1e6;
const viewLength = pagesPerView * PAGE;
for (const segment of segments) {
  for (let at = 0; at < each; at += viewLength) views.push(segment.view(Uint8Array, at, viewLength));
}
const order = shuffled(pages);
const expected = order.reduce((sum, page) => sum + (page & 255), 0) >>> 0;

/** Apart from `touch`, because here each page has to find its view. */
function touchAll() {
  let sum = 0;
  for (let i = 0; i < order.length; i++) {
    const page = /** @type {number} */ (order[i]);
    const view = /** @type {Uint8Array} */ (views[Math.trunc(page / pagesPerView)]);
    sum = (sum + /** @type {number} */ (view[(page % pagesPerView) * PAGE])) | 0;
  }
  return sum >>> 0;
}

process.on('message', () => {
  for (const segment of segments) segment.release();
  let sum = 0;
  const sample = timed(pages, () => {
    sum = touchAll();
  });
  verify('pagefault', sum, expected);
  process.send?.({ ...sample, opened });
});
process.send?.('ready');
