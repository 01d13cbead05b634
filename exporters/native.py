"""From a PyTorch model to the native graph: the whole decoder as one operator, weights once.

The graph has a single node, `Decoder` of the domain `atom_edge`, which the library in
`runtimes/native` computes. One run appends new tokens to B sequences, and may go on to choose and
append further tokens itself. B sequences, T the most new tokens of one of them, N rows of logits,
P pages of the cache, M the most pages of a sequence, L layers, K key-value heads, D the head size
rounded up to a multiple of 16, V the vocabulary.

Inputs of every run:

    input_ids     int64 [B, T]   the new tokens; what is past a sequence's count is not read
    counts        int64 [B]      how many of the T are new tokens of the sequence, 1 to T
    past_lengths  int64 [B]      tokens of the sequence that are in the cache already
    logit_rows    int64 [N]      tokens whose logits are wanted: b * T + t; N may be 0
    pages         int64 [B, M]   the pages of each sequence, in order; 16 tokens a page
    cache         float32 [P, L, 2, K, 16 * D]   keys and values; memory of the caller

Outputs:

    logits        float32 [N, V]
    cache_out     like cache: bind it to the memory of `cache`, and nothing is copied

A page holds 16 consecutive tokens of one sequence, in all layers; how it is laid out inside is the
operator's own affair. Token i of a sequence is in page `pages[b, i // 16]`; only pages below
`past_lengths + counts` are looked at. Sequences may share the pages of a common prefix as long as
none of them writes there. To crop is to give a smaller past length; to copy a prefix is to copy
whole pages; a cache of one sequence grows by appending pages to the array.

The logits of a token depend on the tokens before it alone, bit for bit: not on how they were cut
into runs, on the rest of the batch, or on the number of threads.

The loop inside: with `steps` S above 0, the run then chooses the next token of every sequence from
the logits of its last token, appends it, and so on, until S tokens are chosen or all sequences have
ended. The last chosen token is not appended: it is the first input of the next run. Each of these
inputs has a default in the graph, so that who wants logits alone feeds none of them:

    steps         int64 [1]      tokens to choose, 0 by default
    end_ids       int64 [E]      tokens that end a sequence
    sampling      float64 [B, 5] temperature (0 is greedy), top_k (0 is all), top_p, min_p,
                                 repetition penalty
    seeds         int64 [B, 2]   the seed, and how many numbers were drawn before
    history       int64 [B, H]   tokens that count as repeated, -1 for none; what the run itself
                                 chooses is added
    alternatives  int64 [1]      -1 by default: no log-probabilities; else how many of the likeliest
                                 tokens to rate beside the chosen one, A

    tokens             int64 [B, S]         chosen, the end token included; -1 after it
    top_tokens         int64 [B, S, A]      the likeliest, most likely first
    log_probabilities  float64 [B, S, 1+A]  of the chosen token and of those; [B, S, 0] if not asked

Room for the appended tokens, `past_lengths + counts + steps - 1`, must be in `pages`.
"""
