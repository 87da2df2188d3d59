// Seeded test strings: many scripts, everything the split looks at, and bytes that are no text at all.

/** A small seeded generator of numbers (xorshift, Marsaglia 2003). */
export class Random {
  constructor(seed) {
    this.state = (seed * 2654435761) >>> 0 || 1;
  }
  below(bound) {
    this.state ^= this.state << 13;
    this.state ^= this.state >>> 17;
    this.state ^= this.state << 5;
    this.state >>>= 0;
    return this.state % bound;
  }
  pick(list) {
    return list[this.below(list.length)];
  }
}

// First and last code point. All were assigned long before the Unicode versions that the compared
// libraries carry: those differ, and a new letter is a symbol to the older library.
const scripts = {
  latin: [0x41, 0x7a],
  latin1: [0xa1, 0xff],
  latinExtended: [0x100, 0x24f],
  ipa: [0x250, 0x2ff],
  combining: [0x300, 0x36f],
  greek: [0x391, 0x3ff],
  cyrillic: [0x400, 0x52f],
  armenian: [0x531, 0x556],
  hebrew: [0x591, 0x5f4],
  arabic: [0x600, 0x6ff],
  devanagari: [0x900, 0x97f],
  bengali: [0x985, 0x9b9],
  tamil: [0xb82, 0xbcd],
  thai: [0xe01, 0xe5b],
  tibetan: [0xf40, 0xf84],
  georgian: [0x10d0, 0x10ff],
  hangulJamo: [0x1100, 0x11ff],
  ethiopic: [0x1200, 0x1248],
  khmer: [0x1780, 0x17dd],
  latinAdditional: [0x1e00, 0x1eff],
  greekExtended: [0x1f00, 0x1f15],
  punctuation: [0x2000, 0x2064],
  superscripts: [0x2070, 0x2071],
  currency: [0x20a0, 0x20bf],
  letterlike: [0x2100, 0x218b],
  arrows: [0x2190, 0x23ff],
  symbols: [0x2460, 0x27ff],
  cjkPunctuation: [0x3000, 0x303f],
  hiragana: [0x3041, 0x309f],
  katakana: [0x30a0, 0x30ff],
  han: [0x4e00, 0x9fa5],
  hangul: [0xac00, 0xd7a3],
  compatibility: [0xf900, 0xfa2d],
  halfwidth: [0xff01, 0xffbe],
  gothic: [0x10330, 0x1034a],
  musical: [0x1d15e, 0x1d1ad],
  mathematical: [0x1d400, 0x1d454],
  emoji: [0x1f300, 0x1f64f],
  hanExtended: [0x20000, 0x2a6d6],
  hanCompatibility: [0x2f800, 0x2fa1d],
};

const blanks = [" ", "  ", "\t", "\n", "\r\n", "\n\n", " \n ", "\v", "\f", "\u0085", "\u00a0", "\u1680", "\u2003",
  "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\u200b", "\u180e", "\ufeff", "\u001c", "\0"];
const words = ["the", "I'll", "DON'T", "we've", "it'\u017f", "'\u212aelvin", "'S", "O'Reilly", "x'll'd", "''", "hello", "Hello",
  "naïve", "cafe\u0301", "Straße", "12345", "3.14", "1٢3", "Ⅷ½²", "foo_bar", "C++20", "don’t", "--", "...", "?!\n", "(", ")", "«",
  "http://a.b/c?d=e&f", "{\"a\": [1, 2]}", "<b>", "e\u0301\u0323\u0302", "👍🏽", "👩‍👩‍👧", "🇨🇭", "한국어", "日本語", "你好，世界", "ไทย", "हिन्दी",
  "العربية", "\u1100\u1161\u11a8", "\ufffd"];
export const specialTokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
  "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
  "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
  "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"];
const brokenTokens = ["<|im_", "<|", "|>", "<think", "</", "<|im_end|", "<<|im_end|>>"];

function scriptText(random, [first, last], length) {
  let text = "";
  for (let i = 0; i < length; ++i) text += String.fromCodePoint(first + random.below(last - first + 1));
  return text;
}

function mixedText(random, pieces) {
  let text = "";
  for (let left = 1 + random.below(pieces); left > 0; --left) {
    const kind = random.below(4);
    if (kind === 0) text += random.pick(blanks);
    else if (kind === 1) text += random.pick(words);
    else text += scriptText(random, scripts[random.pick(Object.keys(scripts))], 1 + random.below(4));
  }
  return text;
}

function longWord(random) {
  const alphabet = random.pick(["ab", "etaoin", "the", "0Oo", "你好", "abcdefghijklmnopqrstuvwxyz", "é\u0301", "=-"]);
  let text = "";
  for (let left = 1 + random.below(400); left > 0; --left) text += random.pick([...alphabet]);
  return text;
}

function bytes(random) {
  const out = Buffer.alloc(1 + random.below(40));
  for (let i = 0; i < out.length; ++i) out[i] = random.below(256);
  return out;
}

/** `count` cases {special, bytes}: special says whether special tokens are to be parsed. */
export function* cases(seed, count) {
  const random = new Random(seed);
  const names = Object.keys(scripts);
  for (let i = 0; i < count; ++i) {
    const kind = i % 8;
    if (kind === 0) yield text(scriptText(random, scripts[names[(i / 8) % names.length]], 1 + random.below(40)));
    else if (kind === 1) yield text(longWord(random));
    else if (kind === 2) yield { special: false, bytes: bytes(random) };
    else if (kind === 3) yield text(templateText(random), true);
    else yield text(mixedText(random, 12));
  }
}

function text(string, special = false) {
  return { special, bytes: Buffer.from(string, "utf8") };
}

function templateText(random) {
  let out = "";
  for (let left = 1 + random.below(6); left > 0; --left)
    out += random.pick([random.pick(specialTokens), random.pick(brokenTokens), mixedText(random, 4)]);
  return out;
}
