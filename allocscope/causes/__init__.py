"""Why memory is held: one pure rule for each cause, ranked, with remedies and what they give back.

Rules: a rule looks at the situation and says None or a finding with figures; it never reads
anything. Which byte belongs to which cause is decided in one place (:mod:`allocscope.causes.rank`).
"""
