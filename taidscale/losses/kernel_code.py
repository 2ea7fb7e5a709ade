"""What the kernels compute, in Triton's language; `kernels` launches them.

Shapes: C tokens, v columns of this rank, `stride` entries from one token's to the next. A program
takes one token, `gradient` a block of its columns.

What is loaded beyond v, up to the stride, is whatever the buffer held: masks that end at a
multiple of 64 leave loads wide, and `tl.where` takes it out.
"""

import triton
import triton.language as tl

LOWEST = tl.constexpr(-1e30)
"""Stands for -inf: no logit is lower, and its differences and products stay finite."""


@triton.jit
def moments(
    student,
    teacher,
    labels,
    out,
    num_tokens,
    num_columns,
    stride,
    t,
    inverse_tau,
    WITH_TEACHER: tl.constexpr,
    WITH_MIXTURE: tl.constexpr,
    AT_ONE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The rows of `losses.moments`, in one pass."""
    token = tl.program_id(0).to(tl.int64)
    student += token * stride
    teacher += token * stride
    out += token
    # Sums refer to the largest logit so far; when that grows, they are brought to the new one.
    a = LOWEST
    b = LOWEST
    c = LOWEST
    z_s = tl.zeros([BLOCK], tl.float32)
    s_s = tl.zeros([BLOCK], tl.float32)
    z_s_tau = tl.zeros([BLOCK], tl.float32)
    z_w = tl.zeros([BLOCK], tl.float32)
    w_w = tl.zeros([BLOCK], tl.float32)
    w_difference = tl.zeros([BLOCK], tl.float32)
    z_w_tau = tl.zeros([BLOCK], tl.float32)
    z_m = tl.zeros([BLOCK], tl.float32)
    m_s = tl.zeros([BLOCK], tl.float32)
    m_difference = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < num_columns
        s_raw = tl.load(student + column, mask=column < stride).to(tl.float32)
        s_raw = tl.where(inside, s_raw, LOWEST)
        top_a = tl.maximum(a, tl.max(s_raw, 0))
        d_a = a - top_a
        a = top_a
        s = s_raw - a
        es = tl.exp(s)
        e_a = tl.exp(d_a)
        s_s = e_a * (s_s + d_a * z_s) + es * s
        z_s = e_a * z_s + es
        if WITH_TEACHER:
            w_raw = tl.load(teacher + column, mask=column < stride).to(tl.float32)
            w_raw = tl.where(inside, w_raw, LOWEST)
            top_b = tl.maximum(b, tl.max(w_raw, 0))
            d_b = b - top_b
            b = top_b
            w = w_raw - b
            ew = tl.exp(w)
            e_b = tl.exp(d_b)
            w_w = e_b * (w_w + d_b * z_w) + ew * w
            w_difference = e_b * (w_difference + (d_b - d_a) * z_w) + ew * (w - s)
            z_w = e_b * z_w + ew
            if not AT_ONE:
                z_s_tau = tl.exp(d_a * inverse_tau) * z_s_tau + tl.exp(s * inverse_tau)
                z_w_tau = tl.exp(d_b * inverse_tau) * z_w_tau + tl.exp(w * inverse_tau)
            if WITH_MIXTURE:
                m_raw = (s_raw + t * (w_raw - s_raw)) * inverse_tau
                top_c = tl.maximum(c, tl.max(tl.where(inside, m_raw, LOWEST), 0))
                d_c = c - top_c
                c = top_c
                m = m_raw - c
                em = tl.where(inside, tl.exp(m), 0.0)
                e_c = tl.exp(d_c)
                s_tau = s * inverse_tau
                d_s = d_a * inverse_tau
                m_s = e_c * (m_s + d_s * z_m) + em * s_tau
                m_difference = e_c * (m_difference + (d_c - d_s) * z_m) + em * (m - s_tau)
                z_m = e_c * z_m + em
    label = tl.load(labels + token)
    here = (label >= 0) & (label < num_columns)
    tl.store(out, a)
    tl.store(out + num_tokens, tl.sum(z_s, 0))
    tl.store(out + 2 * num_tokens, tl.sum(s_s, 0))
    student_label = tl.load(student + label, mask=here, other=0.0).to(tl.float32)
    tl.store(out + 3 * num_tokens, student_label)
    if WITH_TEACHER:
        tl.store(out + 4 * num_tokens, b)
        tl.store(out + 5 * num_tokens, tl.sum(z_w, 0))
        tl.store(out + 6 * num_tokens, tl.sum(w_w, 0))
        tl.store(out + 7 * num_tokens, tl.sum(w_difference, 0))
        teacher_label = tl.load(teacher + label, mask=here, other=0.0).to(tl.float32)
        tl.store(out + 8 * num_tokens, teacher_label)
        tl.store(out + 9 * num_tokens, tl.sum(z_s if AT_ONE else z_s_tau, 0))
        tl.store(out + 10 * num_tokens, tl.sum(z_w if AT_ONE else z_w_tau, 0))
    if WITH_MIXTURE:
        tl.store(out + 11 * num_tokens, c)
        tl.store(out + 12 * num_tokens, tl.sum(z_m, 0))
        tl.store(out + 13 * num_tokens, tl.sum(m_s, 0))
        tl.store(out + 14 * num_tokens, tl.sum(m_difference, 0))


@triton.jit
def term_sums(
    student,
    teacher,
    normalisers,
    out,
    num_tokens,
    num_columns,
    stride,
    inverse_tau,
    parameter,
    TERMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Σ f and Σ slope of a separable divergence."""
    token = tl.program_id(0).to(tl.int64)
    student += token * stride
    teacher += token * stride
    normalisers += token
    a = tl.load(normalisers)
    log_z_s = tl.load(normalisers + num_tokens)
    b = tl.load(normalisers + 3 * num_tokens)
    log_z_w = tl.load(normalisers + 4 * num_tokens)
    values = tl.zeros([BLOCK], tl.float32)
    slopes = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < num_columns
        s = tl.load(student + column, mask=column < stride).to(tl.float32)
        w = tl.load(teacher + column, mask=column < stride).to(tl.float32)
        log_q = (s - a) * inverse_tau - log_z_s
        log_p = (w - b) * inverse_tau - log_z_w
        value, slope = TERMS(log_p, log_q, parameter)
        values += tl.where(inside, value, 0.0)
        slopes += tl.where(inside, slope, 0.0)
    tl.store(out + token, tl.sum(values, 0))
    tl.store(out + num_tokens + token, tl.sum(slopes, 0))


@triton.jit
def gradient(
    student,
    teacher,
    labels,
    factors,
    normalisers,
    statistics,
    num_tokens,
    num_columns,
    stride,
    inverse_tau,
    divergence_scale,
    cross_entropy_weight,
    parameter,
    inverse_softcap,
    TERMS: tl.constexpr,
    WITH_INTERPOLATION: tl.constexpr,
    WITH_CROSS_ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The loss's derivative by the student's logits, over these."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    within = column < stride  # of which those beyond the columns are never read
    student += token * stride
    normalisers += token
    a = tl.load(normalisers)
    s = tl.load(student + column, mask=within).to(tl.float32)
    derivative = tl.zeros([BLOCK], tl.float32)
    if WITH_INTERPOLATION or TERMS is not None:
        w = tl.load(teacher + token * stride + column, mask=within).to(tl.float32)
        log_q = (s - a) * inverse_tau - tl.load(normalisers + num_tokens)
        q = tl.exp(log_q)
        first = tl.load(statistics + token)
        second = tl.load(statistics + num_tokens + token)
        if WITH_INTERPOLATION:
            m = (s + parameter * (w - s)) * inverse_tau
            derivative = (q - tl.exp(m - first - second)) * divergence_scale
        else:
            b = tl.load(normalisers + 3 * num_tokens)
            log_p = (w - b) * inverse_tau - tl.load(normalisers + 4 * num_tokens)
            _, slope = TERMS(log_p, log_q, parameter)
            derivative = (slope - q * second) * divergence_scale
    if WITH_CROSS_ENTROPY:
        at_one = tl.exp(s - a - tl.load(normalisers + 2 * num_tokens))
        is_label = column == tl.load(labels + token)
        derivative += cross_entropy_weight * tl.where(is_label, at_one - 1.0, at_one)
    bounded = s * inverse_softcap
    derivative *= (1.0 - bounded * bounded) * tl.load(factors + token)
    tl.store(student + column, derivative.to(student.dtype.element_ty), mask=within)


@triton.jit
def reverse_kl(log_p, log_q, parameter):
    """See `ReverseKL`."""
    q = tl.exp(log_q)
    value = q * (log_q - log_p)
    return value, q + value


@triton.jit
def jensen_shannon(log_p, log_q, parameter):
    """See `JensenShannon`."""
    difference = log_p - log_q
    m_over_q = _log_mean(difference, parameter)
    slope = (parameter - 1.0) * tl.exp(log_q) * m_over_q
    return parameter * tl.exp(log_p) * (difference - m_over_q) + slope, slope


@triton.jit
def skew_forward_kl(log_p, log_q, parameter):
    """See `SkewForwardKL`."""
    difference = log_p - log_q
    m_over_q = _log_mean(difference, parameter)
    p = tl.exp(log_p)
    return p * (difference - m_over_q), (parameter - 1.0) * p * tl.exp(-m_over_q)


@triton.jit
def skew_reverse_kl(log_p, log_q, parameter):
    """See `SkewReverseKL`."""
    difference = log_p - log_q
    m_over_q = _log_mean(difference, 1.0 - parameter)
    q = tl.exp(log_q)
    value = -q * m_over_q
    return value, value + (1.0 - parameter) * q * tl.exp(difference - m_over_q)


@triton.jit
def total_variation(log_p, log_q, parameter):
    """See `TotalVariation`."""
    q = tl.exp(log_q)
    gap = q - tl.exp(log_p)
    sign = tl.where(gap > 0.0, 0.5, tl.where(gap < 0.0, -0.5, 0.0))
    return gap * sign, q * sign


@triton.jit
def _log_mean(difference, share):
    """Log of (share·p + (1-share)·q)/q, from log p - log q."""
    larger = tl.maximum(difference, 0.0)
    mean = share * tl.exp(difference - larger) + (1.0 - share) * tl.exp(-larger)
    return larger + tl.log(tl.maximum(mean, 1e-37))
