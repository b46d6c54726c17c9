/** Work that goes on only while the page can be seen. */

/**
 * Run `work(signal)` again and again, `pause_ms` after it has ended. While the page is hidden it is
 * aborted and waits. Errors are for `work` to tell. Answers with a function that ends it.
 */
export function whileVisible(work, pause_ms) {
  const end = new AbortController();
  repeat(work, pause_ms, end.signal);
  return () => end.abort();
}

async function repeat(work, pause_ms, end) {
  while (!end.aborted) {
    const turn = new AbortController();
    const stop = () => turn.abort();
    end.addEventListener("abort", stop, { signal: turn.signal });
    if (document.hidden) {
      await new Promise((resume) => {
        turn.signal.addEventListener("abort", resume);
        document.addEventListener("visibilitychange", stop, { signal: turn.signal });
      });
      continue;
    }
    document.addEventListener("visibilitychange", stop, { signal: turn.signal });
    try {
      await work(turn.signal);
      await pause(pause_ms, turn.signal);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    } finally {
      turn.abort();
    }
  }
}

/** Wait; ends at once, with nothing thrown, when `signal` aborts. */
export function pause(ms, signal) {
  return new Promise((resume) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resume();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}
