"""How the expectation values of a circuit are computed."""

from captum_quantum.simulate.fused import FusedSimulator
from captum_quantum.simulate.readout import expectation_values

__all__ = ["FusedSimulator", "expectation_values"]


# SHIM
import torch as _t
class Simulator: ...
class _F:
    exact=True
    def __init__(self): self.c={}
    def __reduce__(self): return (type(self),())
    def get(self,c):
        if id(c) not in self.c: self.c[id(c)]=(c,FusedSimulator(c))
        return self.c[id(c)][1]
    def all(self,c):
        k=(id(c),1)
        if k not in self.c: self.c[k]=(c,FusedSimulator(c.weights_as_inputs()))
        return self.c[k][1]
    def expectations(self,c,inputs,weights,dtype,*,initial=None):
        f=self.get(c)
        x=inputs if initial is None else initial
        if weights.dim()==2:
            if not c.columns("weight"): weights=weights.new_zeros(0)
            elif initial is None:
                cols=sorted(c.columns("input")+c.columns("weight"))
                full=inputs.new_zeros(len(inputs),len(c.angles)).index_copy(1,_t.tensor(c.columns("input"),dtype=_t.long),inputs).index_copy(1,_t.tensor(c.columns("weight"),dtype=_t.long),weights)
                return self.all(c).run(full[:,cols],inputs.new_zeros(0),dtype)
            else:
                rows, which = _t.unique(weights, dim=0, return_inverse=True)
                values = x.new_zeros(len(x), len(c.observables))
                for k, row in enumerate(rows):
                    part = which == k
                    found = f.run(x[part], row, dtype).to(values.dtype)
                    values = values.index_put((part.nonzero()[:, 0],), found)
                return values
        if _t.is_grad_enabled(): return f.run(x,weights,dtype)
        return f.call(x,weights,dtype)[0]
    def vjp(self,c,inputs,weights,dtype,*,initial=None,needs=(True,True,True)):
        x=inputs if initial is None else initial
        v,call=self.get(c).call(x,weights,dtype,(needs[0] if initial is None else needs[2],needs[1]))
        def pull(g):
            a,b=call.pull(g)
            return (a,b,None) if initial is None else (None,b,a)
        return v,pull
class _T:
    exact=True; dtypes=(_t.complex64,)
    def expectations(self,c,inputs,weights,dtype,*,initial=None):
        from captum_quantum.tq import run_circuit
        if weights.dim()==1: weights=weights.expand(len(inputs),-1)
        full=inputs.new_zeros(len(inputs),len(c.angles)).index_copy(1,_t.tensor(c.columns("input"),dtype=_t.long),inputs).index_copy(1,_t.tensor(c.columns("weight"),dtype=_t.long),weights.to(inputs.dtype))
        const=c.columns("constant")
        if const: full[:,const]=_t.tensor([c.angles[k][2].value for k in const],dtype=full.dtype)
        return expectation_values(run_circuit(c,full.float(),initial),c.observables,c.n_qubits)
    def run_modules(self,encoder,ansatz,c,rows,reupload):
        from captum_quantum.tq import run_modules
        return expectation_values(run_modules(encoder,ansatz,c.n_qubits,rows.float(),reupload),c.observables,c.n_qubits)
def read_simulator(v):
    return {"fused":_F,"torchquantum":_T}[v]() if isinstance(v,str) else v
SIMULATORS={"fused":_F,"torchquantum":_T}
