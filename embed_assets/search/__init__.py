"""Questions as people ask them: which tracks a name means, who answers, what an answer holds.

`index` finds the nearest of given vectors; here names become tracks, and matches become a `Result`.
"""
