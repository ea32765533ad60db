// What a message costs, computed while it is typed: the rule of chat_app/flows/composer.py.
(() => {
  const MICRO = 1000000n;
  const micro = (text) => {
    const [whole, part = ""] = String(text ?? "0").split(".");
    return BigInt(whole) * MICRO + BigInt(part.padEnd(6, "0"));
  };
  const larger = (one, two) => (one > two ? one : two);
  const cost = (price, prompt, made, images) => micro(price.per_message) + images * micro(price.per_image)
    + (prompt * micro(price.input_per_million) + made * micro(price.output_per_million) + MICRO - 1n) / MICRO;
  const size = (text) => new TextEncoder().encode(text).length;
  // The most it can cost: each byte counts as a token, so the server's count is never above.
  const maximum = (rule, { bytes = 0, images = 0, price = rule.price } = {}) => {
    const count = BigInt(images);
    const prompt = BigInt(rule.prompt_tokens + bytes + rule.tokens_per_message) + count * BigInt(rule.tokens_per_image);
    const whole = cost(price, prompt, larger(1n, BigInt(rule.max_tokens)), count);
    if (rule.per_answer === null) return whole;
    const guard = micro(rule.per_answer);
    return whole <= guard ? whole : larger(guard, cost(price, prompt, 1n, count));
  };
  // What it costs when the answer is as long as usual, at four bytes a token.
  const likely = (rule, given = {}) => {
    const { bytes = 0, images = 0, price = rule.price } = given;
    const made = Math.min(rule.usual_tokens ?? Math.floor(rule.max_tokens / 4), rule.max_tokens);
    const prompt = rule.prompt_tokens + Math.ceil(bytes / 4) + images * rule.tokens_per_image;
    const most = maximum(rule, given), usual = cost(price, BigInt(prompt), larger(1n, BigInt(made)), BigInt(images));
    return usual < most ? usual : most;
  };
  // Of the most that a message costs, the percent that are for what was said before.
  const history = (rule, given = {}) => {
    const most = maximum(rule, given);
    const part = (BigInt(rule.history_tokens) * micro(rule.price.input_per_million)) / MICRO;
    return most ? Number((part * 100n) / most) : 0;
  };
  const byToken = (price) => Boolean(micro(price.input_per_million) + micro(price.output_per_million));
  const show = (amount) => {
    const part = String(amount % MICRO).padStart(6, "0").replace(/0+$/, "");
    return String(amount / MICRO).replace(/\B(?=(\d{3})+$)/g, ",") + (part && `.${part}`);
  };
  globalThis.chatPrice = { micro, size, maximum, likely, history, byToken, show };
})();
