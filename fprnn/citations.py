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
}

CITATIONS: dict[str, tuple[str, ...]] = {
    "SequenceModeling": ("movahedi2025fixed",),
    "FPRNN": ("movahedi2025fixed",),
    "LSTMLayer": ("hochreiter1997long",),
    "DeltaProductLayer": ("siems2025deltaproduct",),
    "AndersonSolver": ("walker2011anderson",),
    "WordProblem": ("merrill2024illusion",),
    "FormalLanguage": ("deletang2023neural",),
    "CopyingTask": ("jelassi2024repeat",),
    "CatBAbI": ("weston2015towards", "schlag2021learning"),
}
