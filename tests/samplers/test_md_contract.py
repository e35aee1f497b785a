from alflow.samplers.md import Part
from alflow.testing.sampler_contract import SamplerContract
from alflow.testing.toys import ToySampler


class TestMd(SamplerContract):
    part = Part(length_ps=0.05, timestep_fs=2, T_K=600)


class TestMdOfThePaper(SamplerContract):
    part = Part(
        length_ps=0.1, timestep_fs=2, keep="all", spacing_ps=0.01, relax_steps=5, volumetric_strain=(-0.05, 0.05)
    )


class TestToySampler(SamplerContract):
    part = ToySampler(steps=30)
