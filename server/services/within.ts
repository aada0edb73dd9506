/** The answer, unless it takes longer than that; then whoever waits gets the error, and nobody hears of the answer. */
export async function within<Result>(ms: number, answer: Promise<Result>, late: () => Error): Promise<Result> {
  const expired = Promise.withResolvers<never>();
  // Where it was this process that had no time, the answer may be here, unread: it is read before the next immediate.
  const timer = setTimeout(() => setImmediate(() => expired.reject(late())), ms);
  try {
    return await Promise.race([answer, expired.promise]);
  } finally {
    clearTimeout(timer);
    answer.catch(() => {});
  }
}
