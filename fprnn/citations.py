"""What to cite: BibTeX entries, and which of them each class of this package goes with, by its name.

A class that is not listed goes with what its base class goes with. Pages and volumes are left out where sources
disagree.
"""

REFERENCES = {
    "movahedi2025fixed": """\
@inproceedings{movahedi2025fixed,
  title     = {Fixed-Point {RNN}s: Interpolating from Diagonal to Dense},
  author    = {Movahedi, Sajad and Sarnthein, Felix and Muca Cirone, Nicola and Orvieto, Antonio},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2025},
  url       = {https://arxiv.org/abs/2503.10799},
}""",
    "hochreiter1997long": """\
@article{hochreiter1997long,
  title   = {Long Short-Term Memory},
  author  = {Hochreiter, Sepp and Schmidhuber, J{\\"u}rgen},
  journal = {Neural Computation},
  volume  = {9},
  number  = {8},
  pages   = {1735--1780},
  year    = {1997},
}""",
    "siems2025deltaproduct": """\
@inproceedings{siems2025deltaproduct,
  title     = {{DeltaProduct}: Improving State-Tracking in Linear {RNN}s via Householder Products},
  author    = {Siems, Julien and Carstensen, Timur and Zela, Arber and Hutter, Frank and Pontil, Massimiliano and
               Grazzi, Riccardo},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2025},
  url       = {https://openreview.net/forum?id=SoRiaijTGr},
}""",
    "gu2023mamba": """\
@misc{gu2023mamba,
  title  = {Mamba: Linear-Time Sequence Modeling with Selective State Spaces},
  author = {Gu, Albert and Dao, Tri},
  year   = {2023},
  eprint = {2312.00752},
  archivePrefix = {arXiv},
}""",
    "dao2024transformers": """\
@inproceedings{dao2024transformers,
  title     = {Transformers are {SSM}s: Generalized Models and Efficient Algorithms Through Structured State Space
               Duality},
  author    = {Dao, Tri and Gu, Albert},
  booktitle = {Proceedings of the 41st International Conference on Machine Learning},
  year      = {2024},
  url       = {https://arxiv.org/abs/2405.21060},
}""",
    "walker2011anderson": """\
@article{walker2011anderson,
  title   = {Anderson Acceleration for Fixed-Point Iterations},
  author  = {Walker, Homer F. and Ni, Peng},
  journal = {SIAM Journal on Numerical Analysis},
  volume  = {49},
  number  = {4},
  pages   = {1715--1735},
  year    = {2011},
  doi     = {10.1137/10078356X},
}""",
    "merrill2024illusion": """\
@inproceedings{merrill2024illusion,
  title     = {The Illusion of State in State-Space Models},
  author    = {Merrill, William and Petty, Jackson and Sabharwal, Ashish},
  booktitle = {Proceedings of the 41st International Conference on Machine Learning},
  year      = {2024},
  url       = {https://arxiv.org/abs/2404.08819},
}""",
    "deletang2023neural": """\
@inproceedings{deletang2023neural,
  title     = {Neural Networks and the {C}homsky Hierarchy},
  author    = {Del{\\'e}tang, Gr{\\'e}goire and Ruoss, Anian and Grau-Moya, Jordi and Genewein, Tim and
               Wenliang, Li Kevin and Catt, Elliot and Cundy, Chris and Hutter, Marcus and Legg, Shane and
               Veness, Joel and Ortega, Pedro A.},
  booktitle = {International Conference on Learning Representations},
  year      = {2023},
  url       = {https://arxiv.org/abs/2207.02098},
}""",
    "jelassi2024repeat": """\
@inproceedings{jelassi2024repeat,
  title     = {Repeat After Me: Transformers are Better than State Space Models at Copying},
  author    = {Jelassi, Samy and Brandfonbrener, David and Kakade, Sham M. and Malach, Eran},
  booktitle = {Proceedings of the 41st International Conference on Machine Learning},
  year      = {2024},
  url       = {https://arxiv.org/abs/2402.01032},
}""",
    "schlag2021learning": """\
@inproceedings{schlag2021learning,
  title     = {Learning Associative Inference Using Fast Weight Memory},
  author    = {Schlag, Imanol and Munkhdalai, Tsendsuren and Schmidhuber, J{\\"u}rgen},
  booktitle = {International Conference on Learning Representations},
  year      = {2021},
  url       = {https://arxiv.org/abs/2011.07831},
}""",
    "weston2015towards": """\
@misc{weston2015towards,
  title  = {Towards {AI}-Complete Question Answering: A Set of Prerequisite Toy Tasks},
  author = {Weston, Jason and Bordes, Antoine and Chopra, Sumit and Rush, Alexander M. and
            van Merri{\\"e}nboer, Bart and Joulin, Armand and Mikolov, Tomas},
  year   = {2015},
  eprint = {1502.05698},
  archivePrefix = {arXiv},
}""",
    "schlag2021linear": """\
@inproceedings{schlag2021linear,
  title     = {Linear Transformers Are Secretly Fast Weight Programmers},
  author    = {Schlag, Imanol and Irie, Kazuki and Schmidhuber, J{\\"u}rgen},
  booktitle = {Proceedings of the 38th International Conference on Machine Learning},
  year      = {2021},
  url       = {https://arxiv.org/abs/2102.11174},
}""",
    "yang2024parallelizing": """\
@inproceedings{yang2024parallelizing,
  title     = {Parallelizing Linear Transformers with the Delta Rule over Sequence Length},
  author    = {Yang, Songlin and Wang, Bailin and Zhang, Yu and Shen, Yikang and Kim, Yoon},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024},
  url       = {https://arxiv.org/abs/2406.06484},
}""",
    "grazzi2025unlocking": """\
@inproceedings{grazzi2025unlocking,
  title     = {Unlocking State-Tracking in Linear {RNN}s Through Negative Eigenvalues},
  author    = {Grazzi, Riccardo and Siems, Julien and Zela, Arber and Franke, J{\\"o}rg K. H. and Hutter, Frank and
               Pontil, Massimiliano},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  url       = {https://arxiv.org/abs/2411.12537},
}""",
    "beck2024xlstm": """\
@inproceedings{beck2024xlstm,
  title     = {{xLSTM}: Extended Long Short-Term Memory},
  author    = {Beck, Maximilian and P{\\"o}ppel, Korbinian and Spanring, Markus and Auer, Andreas and
               Prudnikova, Oleksandra and Kopp, Michael and Klambauer, G{\\"u}nter and Brandstetter, Johannes and
               Hochreiter, Sepp},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024},
  url       = {https://arxiv.org/abs/2405.04517},
}""",
    "vaswani2017attention": """\
@inproceedings{vaswani2017attention,
  title     = {Attention Is All You Need},
  author    = {Vaswani, Ashish and Shazeer, Noam and Parmar, Niki and Uszkoreit, Jakob and Jones, Llion and
               Gomez, Aidan N. and Kaiser, {\\L}ukasz and Polosukhin, Illia},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2017},
  url       = {https://arxiv.org/abs/1706.03762},
}""",
    "su2021roformer": """\
@misc{su2021roformer,
  title  = {{RoFormer}: Enhanced Transformer with Rotary Position Embedding},
  author = {Su, Jianlin and Lu, Yu and Pan, Shengfeng and Murtadha, Ahmed and Wen, Bo and Liu, Yunfeng},
  year   = {2021},
  eprint = {2104.09864},
  archivePrefix = {arXiv},
}""",
    "press2022train": """\
@inproceedings{press2022train,
  title     = {Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation},
  author    = {Press, Ofir and Smith, Noah A. and Lewis, Mike},
  booktitle = {International Conference on Learning Representations},
  year      = {2022},
  url       = {https://arxiv.org/abs/2108.12409},
}""",
}

CITATIONS: dict[str, tuple[str, ...]] = {
    "SequenceModeling": ("movahedi2025fixed",),
    "FPRNN": ("movahedi2025fixed",),
    "FPMamba": ("movahedi2025fixed", "gu2023mamba"),
    "FPMamba2": ("movahedi2025fixed", "dao2024transformers"),
    "MambaLayer": ("gu2023mamba",),
    "LSTMLayer": ("hochreiter1997long",),
    "DeltaProductLayer": ("siems2025deltaproduct",),
    "DeltaNetLayer": ("schlag2021linear", "yang2024parallelizing", "grazzi2025unlocking"),
    "MLSTMLayer": ("beck2024xlstm",),
    "SLSTMLayer": ("beck2024xlstm",),
    "TransformerLayer": ("vaswani2017attention",),
    "RoPE": ("su2021roformer",),
    "ALiBi": ("press2022train",),
    "HardALiBi": ("jelassi2024repeat",),
    "AndersonSolver": ("walker2011anderson",),
    "WordProblem": ("merrill2024illusion",),
    "FormalLanguage": ("deletang2023neural",),
    "CopyingTask": ("jelassi2024repeat",),
    "CatBAbI": ("weston2015towards", "schlag2021learning"),
}
