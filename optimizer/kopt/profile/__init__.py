"""What the GPU's own performance counters say of a kernel, by Nsight Compute (`ncu`), reduced to what a rewrite needs.

The launches that the trace recorded are launched again (`kopt.judge.replay`), so that neither the candidate's host code
nor the judge runs under the profiler. Counters explain a time; they are never the time.
"""

from kopt.profile.limits import Profile as Profile
from kopt.profile.ncu import available as available
from kopt.profile.ncu import profile as profile
from kopt.profile.ncu import required as required
